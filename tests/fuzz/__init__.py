"""What ftkit reads ends in a value or in one of `ftkit.errors`, never in a crash, whatever stands there."""
