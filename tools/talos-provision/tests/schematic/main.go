// Computes the ids of schematics with the package of Talos's Image Factory. Reads a list of YAML texts as JSON,
// and writes the list of their ids.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/siderolabs/image-factory/pkg/schematic"
)

func main() {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		log.Fatal(err)
	}

	ids := make([]string, 0, len(texts))

	for _, text := range texts {
		parsed, err := schematic.Unmarshal([]byte(text))
		if err != nil {
			log.Fatalf("%q: %v", text, err)
		}

		id, err := parsed.ID()
		if err != nil {
			log.Fatal(err)
		}

		ids = append(ids, id)
	}

	if err := json.NewEncoder(os.Stdout).Encode(ids); err != nil {
		log.Fatal(err)
	}
}
