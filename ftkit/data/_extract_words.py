"""What the *extract* starter set is made of: sentence forms, names, items and cities, each list with a part
for training and a part that only held-out rows show."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """One side of the split. Training and held-out rows share no name, item or city."""

    names: tuple[str, ...]
    items: tuple[str, ...]
    cities: tuple[str, ...]


SYSTEM_PROMPT = "Extract the order as JSON."
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

# {who}, {town}, {when} and {number} are distractors: they must not end up in the answer.
TRAIN_FORMS = (
    "{name} from {city} wants {quantity} {item} by {day}.",
    "Please send {quantity} {item} to {name} in {city} on {day}.",
    "Order for {day}: {quantity} {item}, {name}, {city}.",
    "Can you ship {quantity} {item} to {city} by {day}? The name is {name}.",
    "Hi, {name} here. I need {quantity} {item} delivered to {city} on {day}.",
    "{name} called: {quantity} {item} for {city}, {day} at the latest.",
    "On {day} we owe {name} in {city} {quantity} {item}.",
    "It is {name} again. Put me down for {quantity} {item}, {city}, {day}.",
    "{day}, {city}: {name} takes {quantity} {item}.",
    "Deliver to {name} ({city}) {quantity} {item} before {day}.",
    "{who} took the call, but the {quantity} {item} are for {name} in {city}, due {day}.",
    "Our {town} shop sends {quantity} {item} to {name} in {city} on {day}.",
    "{name} moved from {town} to {city} and wants {quantity} {item} there on {day}.",
    "Not {when} but {day}: {quantity} {item} for {name}, {city}.",
    "{name}, flat {number}, {city}, orders {quantity} {item} for {day}.",
    "{quantity} {item} at {number} euros each go to {name} in {city} on {day}.",
    "Ref {number}: {name}, {city}, {quantity} {item}, {day}.",
    "We promised {quantity} {item} to {name} for {day}; the address is in {city}.",
    "The {item} for {name} must reach {city} by {day}, {quantity} of them.",
    "{name} would like {quantity} {item}. Ship to {city}, arriving {day}.",
    "By {day}, {city} expects {quantity} {item} for {name}.",
    "Could {name} get {quantity} {item} in {city} this {day}?",
    "Morning! {quantity} {item}, please, for {name}. {city}, {day}.",
    "Change of plan: {name} takes {quantity} {item}, not {number}, in {city} on {day}.",
    "To {city} for {day}: {name} asked for {quantity} {item}.",
    "{name} paid {number} dollars for {quantity} {item}; bring them to {city} on {day}.",
    "As agreed with {who}, {name} gets {quantity} {item} in {city} next {day}.",
    "Send {name} the {quantity} {item} on {day}. Home is {city}.",
    "A note from {who}: {name} in {city} ordered {quantity} {item} for {day}.",
    "Box {number} holds {quantity} {item}, and {name} picks it up in {city} on {day}.",
    "Tell {who} that {quantity} {item} leave {town} for {name} in {city} on {day}.",
    "{city} branch, {day} run: add {quantity} {item} under the name {name}.",
)
HELD_OUT_FORMS = (
    "I'm {name} and I live in {city}. Could I have {quantity} {item} on {day}?",
    "Is it possible to have {quantity} {item} in {city} by {day}? Thanks, {name}",
    "Wanted: {item}, {quantity} of them. Buyer is {name}, {city}. Needed on {day}.",
    "Don't forget {name}: {quantity} {item}, off to {city} on {day}.",
    "{who} says that {name} in {city} still waits for {quantity} {item}, promised for {day}.",
    "If the van leaves {town} on time, {name} has {quantity} {item} in {city} on {day}.",
    "{day} is fine for {name}, so {quantity} {item} to {city} it is.",
    "Customer: {name}. Town: {city}. Goods: {quantity} {item}. When: {day}.",
    "My parcel with {quantity} {item} was due {when}; now {city} gets it {day}. Regards, {name}",
    "Invoice {number} is settled: {quantity} {item}, {city}, {day}, attention {name}.",
)

TRAIN = Words(
    names=(
        *("Anna", "Bruno", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Irene", "Jonas", "Karin"),
        *("Luis", "Maria", "Nadia", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Tanya", "Umar", "Vera"),
        *("Walter", "Xenia", "Yusuf", "Zoe", "Aisha", "Boris", "Clara", "Dmitri", "Emma", "Felix", "Gina"),
        *("Hassan", "Ivan", "Julia", "Kenji", "Laura", "Marcus", "Nina", "Olga", "Pedro", "Rita", "Samuel"),
        *(
            "Teresa",
            "Victor",
            "Wendy",
            "Yara",
            "Adam",
            "Beatrice",
            "Cesar",
            "Diana",
            "Erik",
            "Fiona",
            "George",
        ),
        *("Helen", "Igor", "Jane", "Klaus", "Linda", "Mehmet", "Nora", "Omar", "Petra", "Ralph", "Sofia"),
        *("Thomas", "Ursula", "Vincent", "Zara"),
    ),
    items=(
        *("desk lamps", "wool socks", "green umbrellas", "coffee mugs", "garden chairs", "notebooks"),
        *("red bicycles", "water bottles", "picture frames", "keyboards", "winter coats", "tea towels"),
        *("bookshelves", "paint brushes", "headphones", "silver spoons", "sleeping bags", "wall clocks"),
        *("candles", "hiking boots", "blue pillows", "bread knives", "suitcases", "flower pots", "tents"),
        *("leather belts", "chess sets", "fishing rods", "yoga mats", "door handles", "extension cables"),
        *("printers", "rain jackets", "soup bowls", "toy trains", "violin strings", "window blinds"),
        *("batteries", "bath towels", "black pens", "camping stoves", "cotton shirts", "dog leads"),
        *("dinner plates", "footballs", "glass vases", "hand drills", "ink cartridges", "jigsaw puzzles"),
        *("kitchen scales", "light bulbs", "mirrors", "office desks", "paper bags", "phone chargers"),
        *("road maps", "running shoes", "salad bowls", "screwdrivers", "shower curtains", "steel pans"),
        *("table cloths", "tennis balls", "tool boxes", "travel guides", "wooden spoons", "cat baskets"),
    ),
    cities=(
        *("Lisbon", "Oslo", "Madrid", "Vienna", "Prague", "Dublin", "Athens", "Warsaw", "Turin", "Lyon"),
        *("Hamburg", "Seville", "Bergen", "Krakow", "Geneva", "Ghent", "Malmo", "Porto", "Leeds", "Bristol"),
        *("Munich", "Naples", "Nantes", "Zagreb", "Riga", "Tallinn", "Varna", "Utrecht", "Graz", "Cork"),
        *("Denver", "Boston", "Austin", "Seattle", "Toronto", "Ottawa", "Lima", "Quito", "Osaka", "Kyoto"),
        *("Nairobi", "Cairo", "Tunis", "Accra", "Perth", "Sydney", "Delhi", "Seoul"),
    ),
)
HELD_OUT = Words(
    names=(
        *(
            "Alfred",
            "Bianca",
            "Cyril",
            "Dora",
            "Emil",
            "Frieda",
            "Gustav",
            "Hannah",
            "Isaac",
            "Jasmine",
            "Kurt",
        ),
        *("Leila", "Martin", "Nathan", "Olivia", "Patrick", "Rebecca", "Stefan", "Tamara", "Valentina"),
        *("William", "Yvonne", "Amir", "Brenda", "Colin", "Denise", "Edgar", "Florence"),
    ),
    items=(
        *(
            "desk fans",
            "silk scarves",
            "yellow kites",
            "tea cups",
            "beach chairs",
            "calendars",
            "blue scooters",
        ),
        *("oil lamps", "photo albums", "loudspeakers", "summer hats", "floor rugs", "ladders", "hair dryers"),
        *("guitar picks", "silver rings", "lunch boxes", "alarm clocks", "snow shovels", "ski boots"),
        *("baking trays", "flower seeds", "leather gloves", "card games", "camera lenses", "toy robots"),
        *("rubber ducks", "pepper mills"),
    ),
    cities=(
        *("Paris", "Rome", "Berlin", "Helsinki", "Bilbao", "Antwerp", "Glasgow", "Salzburg", "Vilnius"),
        *("Bordeaux", "Dresden", "Chicago", "Dallas", "Montreal", "Bogota", "Tokyo", "Lagos", "Dakar"),
        *("Melbourne", "Mumbai"),
    ),
)
