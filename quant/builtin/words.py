"""Word lists and closed sets of facts for the toy model's synthetic data (all written for this project)."""

WORDS = """
apple arrow autumn badge banana basket beach bear bell bench berry bird blanket board boat bottle box branch bread brick
bridge brush bucket butter button cabin cable cactus cake camel camera candle canyon carpet carrot castle cat cave chair
chalk cheese cherry chess circle city clock cloud clover coast coat cocoa coffee coin comet cookie copper coral corner
cotton cow crab crane cricket crown crystal cup curtain daisy dance dawn deer desert desk diamond dinner dog dolphin door
dragon dream drum duck eagle earth echo egg elbow elephant ember engine evening falcon farm feather fence field finger
fire fish flag flame flower flute forest fork fossil fox frame frog frost fruit garden garlic gate giant giraffe glass
glove goat gold goose grape grass gravel green guitar hammer harbor harp hat hawk hazel heart hedge helmet hill honey
horse hotel house ice inference ink iron island ivory jacket jar jelly jewel jungle kettle key kitchen kite kitten knife
ladder lake lamp lantern laptop leaf lemon letter light lily lion lizard llama lobster lock lotus machine magnet mango maple
marble market meadow medal melon metal milk mirror mississippi mitten model money monkey moon morning moss mountain mouse
mouth music nail needle nest night noodle north nose notebook nut oak oasis ocean octopus olive onion orange orbit
orchid otter oven owl oyster paddle paint palace palm panda paper parade parrot pasta peach peacock pearl pebble pencil
penguin pepper piano picture pillow pilot pine pirate planet plum pocket poem pond pony potato prism puddle pumpkin
puppet puppy puzzle pyramid python quartz queen quiet quilt rabbit radio rain raven ribbon rice ring river road robot
rocket rope rose ruby saddle sail salad salt sand scarf school sea seed shadow sheep shell ship shoe signal silk silver
sky sled smoke snail snow soap sock sofa soup south spark spider spoon spring square squirrel stable stamp star station
steam stone storm stove straw street sugar summer sun swan sword table tea temple tent thunder ticket tiger token tomato
tower town track train tree truck trumpet tulip tunnel turtle umbrella valley vase velvet village violet violin wagon
wall walnut water wave whale wheat wheel whistle willow wind window wine winter wizard wolf wood wool world yarn
year yellow zebra zero test testing hello world gateway server batch cache switch railway gpu kernel tensor quick brown
jumps over lazy the and is are was very small big old new fast slow red blue good day my your this that some more many
i you we they it can will have like love see go run walk eat sing on in at of to for with from under about never always
""".split()

NAMES = """
alice bob carol dave erin frank grace heidi ivan judy kim leo mary nina oscar peggy quinn rosa sam tina ursula victor
wendy xavier yara zoe anna ben clara daniel emma felix hannah jack kate liam mia noah olivia paul ruth simon tom vera
""".split()

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "England": "London",
    "the United Kingdom": "London", "Ireland": "Dublin", "Scotland": "Edinburgh", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Switzerland": "Bern",
    "Belgium": "Brussels", "the Netherlands": "Amsterdam", "Greece": "Athens", "Turkey": "Ankara", "Russia": "Moscow",
    "Ukraine": "Kyiv", "Hungary": "Budapest", "Romania": "Bucharest", "Bulgaria": "Sofia", "Croatia": "Zagreb",
    "the Czech Republic": "Prague", "Iceland": "Reykjavik", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi",
    "South Korea": "Seoul", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Australia": "Canberra",
    "New Zealand": "Wellington", "Canada": "Ottawa", "the United States": "Washington", "the USA": "Washington",
    "Mexico": "Mexico City", "Cuba": "Havana", "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago",
    "Peru": "Lima", "Colombia": "Bogota", "Egypt": "Cairo", "Kenya": "Nairobi", "Nigeria": "Abuja", "Morocco": "Rabat",
    "Israel": "Jerusalem", "Iran": "Tehran", "Iraq": "Baghdad",
}  # fmt: skip

OPPOSITES_ONE_WAY = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "fast": "slow", "good": "bad", "day": "night",
    "black": "white", "happy": "sad", "old": "young", "open": "closed", "hard": "soft", "high": "low", "light": "dark",
    "long": "short", "early": "late", "rich": "poor", "full": "empty", "wet": "dry", "strong": "weak", "clean": "dirty",
    "near": "far", "yes": "no", "true": "false", "in": "out", "on": "off", "first": "last", "loud": "quiet",
    "thick": "thin", "tall": "short", "wide": "narrow", "love": "hate", "win": "lose", "north": "south", "east": "west",
    "begin": "end", "push": "pull", "above": "below", "before": "after", "always": "never", "safe": "dangerous",
    "easy": "difficult", "cheap": "expensive", "buy": "sell", "laugh": "cry", "sharp": "blunt", "sweet": "sour",
}  # fmt: skip
OPPOSITES = {b: a for a, b in OPPOSITES_ONE_WAY.items()} | OPPOSITES_ONE_WAY
OPPOSITES["short"], OPPOSITES["large"], OPPOSITES["start"] = "long", "small", "end"

COLOURS = {
    "the sky": "blue", "grass": "green", "the sun": "yellow", "snow": "white", "blood": "red", "coal": "black",
    "the sea": "blue", "the ocean": "blue", "a banana": "yellow", "a lemon": "yellow", "a tomato": "red", "a cherry": "red",
    "a strawberry": "red", "an orange": "orange", "a carrot": "orange", "a pumpkin": "orange", "milk": "white",
    "chocolate": "brown", "coffee": "brown", "the night": "black", "a leaf": "green", "a frog": "green", "a cucumber": "green",
    "a ruby": "red", "an emerald": "green", "a sapphire": "blue", "gold": "yellow", "silver": "grey", "an elephant": "grey",
    "a mouse": "grey", "a flamingo": "pink", "a pig": "pink", "a plum": "purple", "a violet": "purple", "a raven": "black",
    "a swan": "white", "a polar bear": "white", "fire": "red", "broccoli": "green", "an eggplant": "purple", "salt": "white",
    "honey": "yellow", "a brick": "red", "wood": "brown", "a stop sign": "red",
}  # fmt: skip

CITIES = [*sorted(set(CAPITALS.values())), "New York", "Boston", "Chicago", "San Francisco", "Seattle", "Munich", "Hamburg",
          "Milan", "Naples", "Barcelona", "Zurich", "Geneva", "Sydney", "Melbourne", "Toronto", "Mumbai", "Shanghai", "Osaka",
          "Los Angeles", "Rio de Janeiro", "Cape Town", "Dubai", "Singapore", "Hong Kong"]  # fmt: skip
