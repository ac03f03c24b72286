// Decodes every document of the files named into Kubernetes' own types, strictly: a field that is unknown, twice there or of
// another type is an error.
package main

import (
	"bytes"
	"fmt"
	"os"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	lws "sigs.k8s.io/lws/api/leaderworkerset/v1"
	"sigs.k8s.io/yaml"
)

func check(document []byte) (string, error) {
	var kind struct{ Kind string }
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return "", err
	}
	objects := map[string]any{"Deployment": &apps.Deployment{}, "Service": &core.Service{}, "LeaderWorkerSet": &lws.LeaderWorkerSet{}}
	object, known := objects[kind.Kind]
	if !known {
		return kind.Kind, fmt.Errorf("no type for the kind %q", kind.Kind)
	}
	return kind.Kind, yaml.UnmarshalStrict(document, object)
}

func main() {
	status := 0
	for _, name := range os.Args[1:] {
		text, err := os.ReadFile(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for _, document := range bytes.Split(text, []byte("\n---\n")) {
			kind, err := check(document)
			if err != nil {
				fmt.Fprintf(os.Stderr, "%s: %s: %v\n", name, kind, err)
				status = 1
				continue
			}
			fmt.Printf("%s: %s\n", name, kind)
		}
	}
	os.Exit(status)
}
