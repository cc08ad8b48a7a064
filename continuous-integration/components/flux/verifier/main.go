// Whether Flux takes what a registry holds: the verifier of its source-controller, alone.
//
//	flux-verifier cosign.pub 127.0.0.1:5000/a/b@sha256:…
//
// Flux keeps that package to itself (`internal`). Go lets every module whose path begins with that
// of source-controller import it, so this module's path does.
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
