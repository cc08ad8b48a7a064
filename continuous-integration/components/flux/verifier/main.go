// Runs the verifier of Flux's source-controller alone, to check whether Flux accepts a signed artifact.
//
//	flux-verifier cosign.pub 127.0.0.1:5000/a/b@sha256:…
//
// Flux's package is `internal`. Go allows a module to import it if the module's path begins with the path of
// source-controller, so this module has such a path.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/fluxcd/source-controller/internal/oci"
	"github.com/fluxcd/source-controller/internal/oci/cosign"
)

func verify(key, image string) error {
	pem, err := os.ReadFile(key)
	if err != nil {
		return err
	}
	reference, err := name.NewDigest(image, name.Insecure)
	if err != nil {
		return err
	}
	factory := cosign.NewCosignVerifierFactory()
	verifier, err := factory.NewCosignVerifier(context.Background(),
		cosign.WithPublicKey(pem), cosign.WithInsecure(true))
	if err != nil {
		return err
	}
	result, err := verifier.Verify(context.Background(), reference)
	if err == nil && result != oci.VerificationResultSuccess {
		err = fmt.Errorf("%s", result)
	}
	return err
}

func main() {
	if err := verify(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
