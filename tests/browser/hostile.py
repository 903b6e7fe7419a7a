# ruff: noqa: E501  texts and scripts read best on a line
"""Texts that would act where a page took them for more than text. Each bears a mark by which it is found again."""

from __future__ import annotations

MARK = "EVIL"
"""Stands in every one of them."""
STRINGS = (
    "EVIL1 <script>window.evil.push('script')</script>",
    "EVIL2 <img src=x class=evil onerror=\"window.evil.push('img')\">",
    "EVIL3 <svg class=evil onload=\"window.evil.push('svg')\">",
    'EVIL4 "><iframe class=evil src="https://evil.example/frame">',
    "EVIL5 ' onmouseover='window.evil.push(5)' x=' \" onmouseover=\"window.evil.push(5)\" y=\"",
    "EVIL6 </style></textarea></title><style class=evil>@import url(https://evil.example/s.css);</style>",
    "EVIL7 [link](https://evil.example/link) ![image](https://evil.example/image.png)",
    "EVIL8 <a class=evil href=\"javascript:window.evil.push('a')\">press</a> javascript:window.evil.push(8)",
    "EVIL9 $\\href{https://evil.example/math}{x}$ $$\\unicode{x41}^2$$ \\(a^2\\) \\[b^2\\]",
    "EVIL10 {{constructor.constructor('window.evil.push(10)')()}} ${window.evil.push(10)} <%= 1 %>",
    "EVIL11 &lt;img class=evil src=x onerror=window.evil.push(11)&gt; &#60;b class=evil&#62;",
    "EVIL12 <b class=evil>bold</b><form class=evil action=https://evil.example><input name=x></form>",
    "EVIL13 <math class=evil><mtext><img src=x class=evil onerror=window.evil.push(13)></mtext></math>",
    "EVIL14 <link class=evil rel=stylesheet href=https://evil.example/l.css><base href=https://evil.example/>",
    "EVIL15 <div class=evil style='background:url(https://evil.example/b.png)'>x</div>",
    "EVIL16 <object class=evil data=https://evil.example/o></object><embed class=evil src=https://evil.example/e>",
    "EVIL17 <video class=evil src=https://evil.example/v onerror=window.evil.push(17) autoplay></video>",
    "EVIL18 \u202etxt.exe\u202c \x1b]8;;https://evil.example\x07press\x1b]8;;\x07 \x00\x08",
)
EVERY = "\n".join(STRINGS)
NAME = "EVIL20 <img src=x class=evil onerror=window.evil.push(20)>$x^2$"
"""The same for the name of a file or folder, which holds no slash."""
