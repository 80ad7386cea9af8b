"""Random JSON schemas, and whether a value fits one, independently of what constrains answers."""

import math


def random_schema(random, depth=0):
    """Each of its answers has an end, so that a random model reaches it."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    if depth < 3:
        kinds += ["object", "array", "anyOf"] * 2
    kind = "object" if depth == 0 else random.choice(kinds)
    match kind:
        case "string":
            least = random.randint(0, 3)
            return {
                "type": "string",
                "minLength": least,
                "maxLength": least + random.randint(0, 6),
            }
        case "integer":
            least = random.randint(-99, 99)
            return {
                "type": "integer",
                "minimum": least,
                "maximum": least + random.randint(0, 500),
            }
        case "enum":
            return {"enum": random.sample(["a", "\ud55c", 1, -2.5, None, True, "x y"], 3)}
        case "const":
            return {"const": random.choice(["k", 7, False])}
        case "array":
            least = random.randint(0, 2)
            return {
                "type": "array",
                "items": random_schema(random, depth + 1),
                "minItems": least,
                "maxItems": least + random.randint(0, 2),
            }
        case "anyOf":
            return {"anyOf": [random_schema(random, depth + 1) for _ in "ab"]}
        case "object":
            names = random.sample(["name", "age", "b", "\ud0a4", 'q"'], random.randint(1, 4))
            return {
                "type": "object",
                "properties": {name: random_schema(random, depth + 1) for name in names},
                "required": [name for name in names if random.random() < 0.7],
                "additionalProperties": False,
            }
    return {"type": kind}


def fits(value, schema):
    """Whether `value` is one that the schema describes."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        wanted = schema.get("enum", [schema.get("const")])
        return any(type(value) is type(one) and value == one for one in wanted)
    match schema["type"]:
        case "object":
            return (
                isinstance(value, dict)
                and value.keys() <= schema["properties"].keys()
                and value.keys() >= {*schema["required"]}
                and all(fits(one, schema["properties"][name]) for name, one in value.items())
            )
        case "array":
            return (
                isinstance(value, list)
                and schema["minItems"] <= len(value) <= schema["maxItems"]
                and all(fits(one, schema["items"]) for one in value)
            )
        case "string":
            return (
                isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
            )
        case "integer":
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            return is_whole and schema["minimum"] <= value <= schema["maximum"]
        case "number":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and not math.isnan(value)
        case "boolean":
            return isinstance(value, bool)
    return value is None
