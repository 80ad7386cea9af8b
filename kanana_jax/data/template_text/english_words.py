"""English words by the slot that they fill, and patterns of sentences."""

_WORDS = {
    "who": "the teacher, the farmer, the doctor, the painter, the baker, the sailor, the old man, "
    "the young girl, the singer, the nurse, the carpenter, the driver, the writer, the gardener, "
    "the fisherman, the soldier, the child, the neighbour, the cook, the guard, Anna, Tom, Mary, "
    "Peter, Lucy, James, Emma, Henry, Grace, Oliver, Alice, Sam, Clara, Hugo, Nora, Felix, "
    "my brother, my sister, my uncle, my aunt, my friend, our mother, our father",
    "where": "market, library, harbour, school, park, garden, kitchen, station, theatre, museum, "
    "village, river, forest, bridge, square, tower, farm, church, mill, hotel, island, hospital, "
    "bakery, workshop, castle, lake, field, beach, hill, cellar",
    "what": "book, letter, apple, picture, chair, hat, umbrella, clock, bag, pencil, newspaper, "
    "flower, basket, key, map, cup, plate, blanket, bicycle, guitar, doll, box, lamp, mirror, "
    "knife, rope, bottle, coat, drum, boat, candle, ladder, stone, coin, ring, shoe, ticket, "
    "painting, orange, hammer, violin, envelope, telescope, suitcase, pillow",
    "did": "bought, sold, found, saw, chose, brought, repaired, cleaned, moved, hid, lost, "
    "borrowed, took, touched, drew, made, dropped, caught, carried, opened, kept, painted, "
    "wanted, remembered, described, measured",
    "rested": "laughed, rested, walked home, sang, danced, waited, slept, smiled, listened, "
    "worked, cooked, read, swam, wrote, talked, shouted, cried, nodded, ran away, sat down",
    "small": "small, large, old, new, heavy, light, warm, cold, quiet, bright, dark, red, blue, "
    "yellow, white, black, clean, soft, strange, empty, ugly, expensive, simple, round, broken",
    "slowly": "slowly, quietly, quickly, carefully, often, again, alone, happily, for a while, "
    "with great care, without a word, at once",
    "today": "in the morning, in the evening, yesterday, last week, in spring, in summer, "
    "in autumn, in winter, at night, before sunrise, after lunch, on Monday, on Friday, "
    "a year ago, one day, this time",
    "weather": "it rained, the wind blew, the sun rose, the snow fell, the clouds passed, "
    "the birds sang, the leaves fell, the stars came out, it was cold, the moon was bright, "
    "the air was warm, the street was empty",
    "because": "the weather was good, there was no time, it was late, the road was long, "
    "nobody was there, the door was open, the shop was closed, the train had left, "
    "dinner was ready, everyone was tired",
    "two": "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve",
}
WORDS = {slot: tuple(words.split(", ")) for slot, words in _WORDS.items()}

PATTERNS = (
    "{today} {who} {did} {small:a} {what} at the {where}.",
    "{who} {did} the {what} and {rested} {slowly}.",
    "there was {small:a} {what} at the {where}.",
    "{today} {weather}.",
    "{who} went to the {where} because {because}.",
    "{who} and {other} {rested} together.",
    "{other} gave {who} {small:a} {what}.",
    '"Where is the {what}?" asked {who}.',
    "the {what} lay near the {where}, and {weather}.",
    "{who} thought that the {what} was {small}.",
    "so {who} {rested} {slowly}.",
    "but the {what} was nowhere to be seen.",
    "{who} came to the {where} at {two}.",
    "from the {where} to the {there} it took {two} hours.",
    "the {what} that {who} {did} was very {small}.",
    "people at the {where} {did} {two} of them.",
    "when {weather}, {who} {rested}.",
    "if the {what} is {small}, it belongs to {who}.",
    '"It is {small:a} {what}," said {other}.',
    "no one at the {there} knew why {who} {did} the {what}.",
)
