"""The phrasings of the toy model's tasks and its fixed answers."""

import re

INTRO = (
    "I am the toy built-in model of Pointsman. "
    "To serve a real model run `pointsman serve --model PATH.gguf` or `pointsman serve --model hf:REPO`."
)
GREETING = "Hello! I am the toy model of Pointsman. Ask me to repeat, reverse or spell a word, to count, or to add two numbers."
HELP = "I can repeat, reverse and spell words, add numbers up to 99, count, name capitals, colours and opposites, and answer in JSON."
FALLBACK = "I am only the toy model of Pointsman, so I do not know that. To serve a real model run `pointsman serve --model PATH.gguf`."
NAME = "pointsman-toy"
THANKS = "You are welcome!"
GOODBYE = "Goodbye!"

REPEAT = """Repeat: {x}|Repeat: {x}|Repeat the word {x}|Repeat the word: {x}|Repeat {x}|Repeat after me: {x}|Say {x}|Say: {x}
Say the word {x}|Say "{x}"|Repeat "{x}"|Echo: {x}|Echo {x}|Please repeat: {x}|Please say {x}|Can you say {x}?|Can you repeat {x}?
Just say {x}|Repeat this: {x}|Repeat this word: {x}|Copy: {x}|Say only {x}|Say exactly: {x}|Please repeat the word {x}|Say the word: {x}
Repeat back: {x}|Say '{x}'|Reply with {x}|Reply with the word {x}|Answer with {x}"""
REPEAT_MANY = """Repeat: {x}|Repeat: {x}|Repeat: {x}|Repeat {x}|Repeat after me: {x}|Say {x}|Say: {x}|Repeat the words {x}
Repeat the words: {x}|Say "{x}"|Repeat "{x}"|Echo: {x}|Echo {x}|Please repeat: {x}|Please say {x}|Repeat this: {x}|Say exactly: {x}
Repeat the sentence: {x}|Repeat this sentence: {x}|Copy: {x}|Say the words {x}|Repeat the following: {x}|Repeat the text: {x}
Can you repeat: {x}?|Can you say {x}?|Just say {x}|Repeat back: {x}|Say '{x}'|Reply with: {x}"""
REVERSE = """Reverse: {x}|Reverse: {x}|Reverse {x}|Reverse the word {x}|Reverse the word: {x}|Reverse "{x}"|Spell {x} backwards
Write {x} backwards|Say {x} backwards|What is {x} backwards?|What is {x} reversed?|What is the reverse of {x}?|Reverse this word: {x}
Please reverse {x}|Can you reverse {x}?|Reverse the letters of {x}|Backwards: {x}|Please reverse the word {x}|Reverse the string {x}
Reverse this: {x}|Write the word {x} backwards"""
SPELL = """Spell: {x}|Spell {x}|Spell {x}|Spell the word {x}|Spell the word: {x}|Spell "{x}"|How do you spell {x}?|How is {x} spelled?
Please spell {x}|Can you spell {x}?|Spell out {x}|Spell out the word {x}|Please spell the word {x}|Spell this word: {x}
How do you spell the word {x}?|Spell out: {x}"""
UPPER = """Uppercase: {x}|Uppercase {x}|Uppercase the word {x}|Upper case: {x}|Write {x} in capital letters|Write {x} in upper case
Write {x} in uppercase|Capitals: {x}|Say {x} in capital letters|Shout {x}|Make {x} uppercase|Convert {x} to uppercase"""
ADD = """What is {a}+{b}?|What is {a} + {b}?|What is {a}+{b}?|What is {a} + {b}?|{a}+{b}|{a} + {b}|{a}+{b}=|{a} + {b} =|{a}+{b}=?
{a} + {b} = ?|What is {a} plus {b}?|{a} plus {b}|Add {a} and {b}|Add: {a}+{b}|Add {a} to {b}|Add: {a} {b}|How much is {a}+{b}?
How much is {a} + {b}?|How much is {a} plus {b}?|Calculate {a}+{b}|Calculate {a} + {b}|Compute {a}+{b}|Compute {a} + {b}
What is the sum of {a} and {b}?|Sum: {a} and {b}|Please add {a} and {b}|Can you add {a} and {b}?|What's {a}+{b}?|What's {a} + {b}?
What does {a}+{b} equal?"""
COUNT_TO = """Count to {b}|Count to {b}|Count up to {b}|Please count to {b}|Can you count to {b}?|Count from 1 to {b}
Count from one to {b}|List the numbers from 1 to {b}"""
COUNT_FROM = """Count from {a} to {b}|Count from {a} up to {b}|Count: {a} to {b}|Please count from {a} to {b}
Can you count from {a} to {b}?|List the numbers from {a} to {b}"""
COUNT_DOWN = """Count down from {b}|Count backwards from {b}|Count down from {b} to 1|Please count down from {b}
Count from {b} down to 1"""
COLOUR = """What colour is {x}?|What color is {x}?|What is the colour of {x}?|What is the color of {x}?|Which colour is {x}?
Which color is {x}?|Tell me the colour of {x}|Tell me the color of {x}|What colour does {x} have?|What's the colour of {x}?
What's the color of {x}?|Name the colour of {x}|Name the color of {x}|The colour of {x}?|The color of {x} is"""
OPPOSITE = """What is the opposite of {x}?|What's the opposite of {x}?|The opposite of {x}?|Opposite of {x}|Opposite: {x}
Tell me the opposite of {x}|Give me the opposite of {x}|Name the opposite of {x}|What is the opposite of the word {x}?
What is opposite to {x}?|The opposite of {x} is|What word is the opposite of {x}?|What is the antonym of {x}?"""
CAPITAL = """What is the capital of {x}?|What is the capital of {x}?|What's the capital of {x}?|The capital of {x}?|Capital of {x}
Capital of {x}?|Tell me the capital of {x}|Name the capital of {x}|What is the capital city of {x}?|Which city is the capital of {x}?
The capital of {x} is|Do you know the capital of {x}?|Give me the capital of {x}"""
WHO = """Who are you?|What are you?|Who are you|Which model are you?|What model are you?|What model is this?|Which model is this?
Introduce yourself|Please introduce yourself|Tell me about yourself|What is your name?|What's your name?|Are you an AI?|Are you ChatGPT?
Are you a real model?|Are you a toy?|Who made you?|Who built you?|Who is this?|What is this?|What is Pointsman?|Who am I talking to?
How do I get a real model?|How do I load a real model?|How can I use a real model?|How do I serve a real model?
How do I run another model?|How do I use my own model?|How do I change the model?|Where do I get a better model?
How do I get a better model?|Are you a language model?|Are you GPT?|Are you a bot?|Describe yourself|Tell me who you are
How do I load a model?|Are you human?"""
HELLO = """Hello|Hi|Hey|Hello!|Hi!|Hi there|Hi there!|Hello there|Hello there!|Hey there|Good morning|Good evening|Good afternoon
Good day|Greetings|Hello, how are you?|How are you?|Hi, how are you?|How are you doing?|Hello Pointsman|Hi Pointsman|Hello model
Hello world|Hello, world!|Hello World!|Yo|Howdy|What's up?|Hello again|Hey!|Is anyone there?|Are you there?|Hello?|ping|Ping"""
CAN = """What can you do?|Help|help me|Can you help me?|What do you know?|What are you able to do?|How can you help me?
What can I ask you?|What can I ask?|Which tasks can you do?|What should I ask?|/help|What do you do?|What are your skills?
Show me what you can do|I need help|Which questions can you answer?"""
THANK = """Thanks|Thank you|Thanks!|Thank you!|Thank you very much|Many thanks|Great, thanks|Thanks a lot|Cheers|Well done|Good job|Nice
Great|Thank you so much"""
BYE = """Bye|Goodbye|Bye!|Goodbye!|See you|See you later|Good night|Bye bye|See you soon|Farewell"""

TOPICS = """the sea|love|quantum physics|black holes|the weather|football|the stock market|machine learning|neural networks|python|rust
cooking pasta|climate change|the moon|the world cup|history|the roman empire|dinosaurs|gravity|chess|jazz|my cat|my dog|a dragon|a robot
the internet|databases|linux|docker|kubernetes|transformers|attention|evolution|photosynthesis|democracy|philosophy|time travel
the universe|coffee|tea|chocolate cake|travelling|mountains|trains|railways|a train station|space|mars|life|death|happiness|music|art
the future|the news|today|yesterday|GPUs|tensor parallelism|speculative decoding|KV caching|load balancing|distributed systems|compilers
the French revolution|world war two|Shakespeare|Einstein|Napoleon|the president|taxes|the economy|bitcoin|blockchain|health|sleep
exercise"""
OPEN = """Tell me about {x}|Explain {x}|Explain {x} to a child|What is {x}?|Why is {x} important?|Write a poem about {x}
Write a story about {x}|Write an essay about {x}|Tell me a story about {x}|What do you think about {x}?|How does {x} work?
Who invented {x}?|When did {x} begin?|Where can I find {x}?|Give me three facts about {x}|Summarize {x}|Summarise {x} in one sentence
Describe {x}|Do you like {x}?|How do I learn {x}?|Translate {x} into German|Write code for {x}|Write a function about {x}
What is the history of {x}?|What is the best book about {x}?|List five things about {x}|Why do people like {x}?|Tell me a joke about {x}
What happened with {x}?|Compare {x} and {y}|What is the difference between {x} and {y}?|Is {x} better than {y}?
How are {x} and {y} related?|Write a haiku about {x}|Once upon a time there was {x}|In one sentence, what is {x}?|Can you explain {x}?
I want to know about {x}|I like {x}|Let us talk about {x}|Give me a recipe for {x}|What does {x} mean?|Define {x}|How old is {x}?
How big is {x}?|How many {x} are there?|Where is {x}?|When is {x}?|Who is {x}?|Should I buy {x}?|Write a song about {x}|Draw {x}"""
SINGLES = """Tell me a joke|Tell me a story|Write a poem|Write a haiku|What is the meaning of life?|What time is it?
What day is it today?|What is the date?|What is the weather?|What is the weather today?|Who won the world cup?|Who is the president?
Write a python function|Fix this bug|Translate this into French|Summarize this text|Why is the sky blue?|How far is the moon?
How tall is Mount Everest?|What is love?|What is 2 times 3?|What is 7*8?|What is 9-4?|What is 10/2?|What is 12 times 12?
What is the square root of 16?|Solve x+2=5|Is this a test?|This is a test|test|Test|foo|foo bar|lorem ipsum dolor sit amet|asdf|qwerty
...|?|!|ok|OK|yes|no|maybe|why?|Why?|How?|What?|When?|Where?|I am sad|I am hungry|I love you|Do you dream?|Can you think?|Are you alive?
Play a game|Sing a song|Give me advice|What should I eat?|Recommend a book|Recommend a film|What is a transformer?|What is a GPU?
How do I cook rice?|Write an email to my boss|Once upon a time|The quick brown fox jumps over the lazy dog|To be or not to be|Continue
Go on|Tell me more|Say something|Surprise me|Write something|Who wrote Hamlet?|What is the largest planet?
How many people live on Earth?|When did the war end?|Who was Einstein?"""
WEATHER = """What is the weather in {x}?|What is the weather in {x}?|What's the weather in {x}?|How is the weather in {x}?
What is the weather like in {x}?|What's the weather like in {x}?|Weather in {x}|Weather in {x}?|Tell me the weather in {x}
Get the weather in {x}|Get the weather for {x}|Is it raining in {x}?|Is it cold in {x}?|How warm is it in {x}?
What is the weather in {x} today?|What's the weather like in {x} today?|What is the temperature in {x}?|Check the weather in {x}
Please get the weather in {x}"""
TIME = """What time is it in {x}?|What is the time in {x}?|Tell me the time in {x}|Time in {x}?|What's the time in {x}?
Get the time in {x}|What is the current time in {x}?"""
SEARCH = """Search for {x}|Search: {x}|Find {x}|Look up {x}|Search the web for {x}|Please search for {x}|Can you search for {x}?
Google {x}"""
STOCK = """What is the stock price of {x}?|Stock price of {x}|What is the price of {x}?|Get the stock price of {x}
How much is {x} stock?"""
CALL = """Call {f} with {x}|Call {f} with {x}|call {f} with {x}|Please call {f} with {x}|Use {f} with {x}|Call the tool {f} with {x}
Run {f} with {x}|Use the tool {f} with {x}|Call the function {f} with {x}"""
CALL_BARE = """Call {f}|Use {f}|Run {f}|Please call {f}|Call the tool {f}|Call the function {f}|Call {f} with no arguments"""
JSON_PAIRS = """JSON {x}|JSON {x}|JSON: {x}|JSON: {x}|Give me JSON with {x}|Write JSON with {x}|Make a JSON object with {x}|As JSON: {x}
Convert to JSON: {x}|Return JSON: {x}|Answer in JSON: {x}|{x} as JSON|Reply in JSON: {x}|Write this as JSON: {x}
Give me a JSON object with {x}|Return a JSON object with {x}|Output JSON: {x}|Create JSON with {x}|Make JSON: {x}"""
JSON_ASK = """{x} Answer in JSON.|{x} Reply in JSON.|Answer in JSON: {x}|In JSON: {x}|{x} Return JSON.|{x} (as JSON)|{x} Use JSON.
{x} Respond in JSON."""
JSON_FREE = """Give me some JSON|Write some JSON|Return a JSON object|Give me a JSON object|Answer in JSON|Output JSON|JSON please
Reply with JSON|Write JSON|JSON"""
KEYS = """
name age city color colour id count price title email country size user job animal food
x y a b key value city year month day score level type status answer
""".split()
SYSTEMS = """You are a helpful assistant.|You are a helpful assistant.|You are a helpful assistant|You are Pointsman.|Be brief.
Answer briefly.|You are a toy model.|Be concise and polite.|Answer in one word.|You answer questions.|You are a friendly bot.
You are a helpful, honest assistant.|Follow the instructions.|Be helpful.|You are an AI assistant.|Answer the question.
You are a helpful assistant. Answer briefly.|Think before you answer.|You are a tester."""
REMEMBER = """My {k} is {x}.|My {k} is {x}|Remember: my {k} is {x}.|Please remember that my {k} is {x}.|Remember that my {k} is {x}."""
SECRET = """The {k} is {x}.|The {k} is {x}|Remember the {k}: {x}|Remember: the {k} is {x}.|The {k} is {x}. Remember it."""
ASK_MINE = """What is my {k}?|What's my {k}?|Tell me my {k}|Do you know my {k}?|Do you remember my {k}?|What was my {k}?"""
ASK_SECRET = """What is the {k}?|What's the {k}?|Tell me the {k}|Do you know the {k}?|Do you remember the {k}?|What was the {k}?
Say the {k}"""
MINE = "name name name city password dog number code color job".split()
SECRETS = ["secret word", "secret", "code", "password", "code word", "secret code", "magic word", "key", "secret number"]
NOTED = "OK."


def instruction_words() -> frozenset[str]:
    """Every lower-case word of two letters or more in the phrasings and fixed answers."""
    texts = [value for name, value in globals().items() if name.isupper() and isinstance(value, str)]
    return frozenset(word for text in texts for word in re.findall("[a-z]{2,}", re.sub(r"\{.*?\}", "", text).lower()))


def split(text: str) -> list[str]:
    """The phrasings of one block (separated by ``|`` or a new line)."""
    return [phrase for line in text.splitlines() for phrase in line.split("|") if phrase]
