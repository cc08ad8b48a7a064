// Answers questions about configurations with Talos's own code, which is compiled into this program.
//
// `schema` and `kinds` print the fields of all documents. `verdicts` reads a list of configurations with patches from
// standard input as JSON, and writes for each what Talos makes of it: an error, or the resulting configuration.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/compatibility"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
)

// release is the version of Talos whose supported versions of Kubernetes apply.
const release = "v1.13.9"

// cloud is the mode of a machine at Hetzner: an installed system that is no container.
type cloud struct{}

func (cloud) String() string        { return "cloud" }
func (cloud) RequiresInstall() bool { return false }
func (cloud) InContainer() bool     { return false }

type question struct {
	Config  string   `json:"config"`
	Patches []string `json:"patches"`
}

type verdict struct {
	Error  string `json:"error"`
	Output string `json:"output"`
}

// apply does what `talosctl` and then a node do with a configuration and its patches.
func apply(asked question) (string, error) {
	var patches []configpatcher.Patch
	for _, text := range asked.Patches {
		patch, err := configpatcher.LoadPatch([]byte(text))
		if err != nil {
			return "", fmt.Errorf("patch: %w", err)
		}
		patches = append(patches, patch)
	}
	data := []byte(asked.Config)
	if len(patches) > 0 {
		patched, err := configpatcher.Apply(configpatcher.WithBytes(data), patches)
		if err != nil {
			return "", fmt.Errorf("apply: %w", err)
		}
		loaded, err := patched.Config()
		if err != nil {
			return "", err
		}
		if data, err = loaded.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled)); err != nil {
			return "", err
		}
	}
	node, err := configloader.NewFromBytes(data)
	if err != nil {
		return "", fmt.Errorf("node: %w", err)
	}
	if _, err := node.Validate(cloud{}); err != nil {
		return "", fmt.Errorf("node: %w", err)
	}
	return string(data), images(node)
}

// images checks the versions of Kubernetes, as a running node does.
func images(node config.Provider) error {
	talos, err := compatibility.ParseTalosVersion(&machine.VersionInfo{Tag: release})
	if err != nil {
		return err
	}
	references := []string{node.Machine().Kubelet().Image()}
	if node.Machine().Type().IsControlPlane() {
		cluster := node.Cluster()
		references = append(references, cluster.APIServer().Image(), cluster.ControllerManager().Image(), cluster.Scheduler().Image())
	}
	for _, reference := range references {
		version, err := v1alpha1.KubernetesVersionFromImageRef(reference)
		if err != nil {
			return err
		}
		if err := version.SupportedWith(talos); err != nil {
			return fmt.Errorf("node: %w", err)
		}
	}
	return nil
}

func verdicts() error {
	var asked []question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	out := make([]verdict, len(asked))
	for i, question := range asked {
		output, err := apply(question)
		if out[i].Output = output; err != nil {
			out[i] = verdict{Error: err.Error()}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func main() {
	var err error
	switch os.Args[1] {
	case "schema":
		err = schema(false)
	case "kinds":
		err = schema(true)
	default:
		err = verdicts()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
