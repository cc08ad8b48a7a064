"""Validates JSON documents, one per line of standard input, against the JSON Schema in a file.

`validate.py SCHEMA OTHER…`: the other files are schemas to which the first one refers by their file names.

Prints a line for each violation, and ends with status 1 if there is one. The schema itself must be valid, too. The
validator is https://github.com/Stranger6667/jsonschema, a program that this project did not write.
"""

import json
import pathlib
import sys
from urllib.parse import urljoin

import jsonschema_rs

schema, *others = [json.loads(pathlib.Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:]]
addresses = [urljoin(schema["$id"], pathlib.Path(file).name) for file in sys.argv[2:]]
jsonschema_rs.meta.validate(schema)
validator = jsonschema_rs.validator_for(schema, registry=jsonschema_rs.Registry(zip(addresses, others)))
violations = [
    f"document {number} at /{'/'.join(map(str, error.instance_path))}: {error.message}"
    for number, line in enumerate(sys.stdin, 1)
    for error in validator.iter_errors(json.loads(line))
]
print(*violations, sep="\n", end="")
sys.exit(1 if violations else 0)
