"""Judges configurations by the JSON Schema of them, with a validator that isn't handlerd's.

Standard input: {"schema": …, "documents": ["TOML", …]}. Standard output: {"schema": [what is wrong
with the schema itself], "documents": [[what is wrong with it], …]}; null for what isn't TOML.
"""

import json
import sys

import jsonschema

try:
    import tomllib
except ImportError:
    import tomli as tomllib


def leaves(error):
    """The errors within an error, which say where and what it is."""
    if not error.context:
        return [error]
    return [leaf for inner in error.context for leaf in leaves(inner)]


def told(error):
    # The path in the schema too: where a key must not be, only that names it.
    paths = [error.absolute_path, error.absolute_schema_path]
    where = [".".join(str(part) for part in path) for path in paths]
    return f"{where[0]}: {error.message} ({where[1]})"


def judge(validator, text):
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    document = json.loads(json.dumps(document, default=str))
    return [told(leaf) for error in validator.iter_errors(document) for leaf in leaves(error)]


request = json.load(sys.stdin)
of_schemas = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
validator = jsonschema.Draft202012Validator(request["schema"])
answer = {
    "schema": [told(error) for error in of_schemas.iter_errors(request["schema"])],
    "documents": [judge(validator, text) for text in request["documents"]],
}
json.dump(answer, sys.stdout)
