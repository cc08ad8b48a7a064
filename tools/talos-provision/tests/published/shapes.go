package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
)

// kinds lists the documents of Talos in the order of the written schema. `v1alpha1` has no kind of its own.
var kinds = strings.Fields(`v1alpha1 BlackholeRouteConfig BondConfig BridgeConfig DHCPv4Config DHCPv6Config
	DummyLinkConfig EnvironmentConfig EthernetConfig EventSinkConfig ExistingVolumeConfig ExtensionServiceConfig
	ExternalVolumeConfig HCloudVIPConfig HostnameConfig ImageVerificationConfig KmsgLogConfig KubeSpanConfig
	KubeSpanEndpointsConfig Layer2VIPConfig LinkAliasConfig LinkConfig NetworkDefaultActionConfig NetworkRuleConfig
	OOMConfig PCIDriverRebindConfig RawVolumeConfig RegistryAuthConfig RegistryMirrorConfig RegistryTLSConfig
	ResolverConfig RoutingRuleConfig SideroLinkConfig StaticHostConfig SwapVolumeConfig TCPProbeConfig TimeSyncConfig
	TrustedRootsConfig UserVolumeConfig VLANConfig VRFConfig VolumeConfig WatchdogTimerConfig WireguardConfig
	ZswapConfig`)

// shape describes how Talos decodes, merges and writes one value.
type shape struct {
	// kind is one of struct, list, map, any and leaf.
	kind string
	// leaf names the type of a leaf, for example `string` or `uint16`.
	leaf string
	// replace tells that a patch replaces the value.
	replace bool
	// keys name the fields by which a patch finds an item of a list.
	keys   string
	item   *shape
	fields []field
}

type field struct {
	name            string
	always, pointer bool
	shape           *shape
}

// leaves names the types that decode one scalar in a way of their own.
var leaves = map[string]string{
	"time.Duration":                   "duration",
	"v1alpha1.Base64Bytes":            "base64",
	"nethelpers.HardwareAddr":         "mac",
	"v1alpha1.DiskSize":               "bytes",
	"block.ByteSize":                  "bytes",
	"block.Size":                      "size",
	"cel.Expression":                  "expression",
	"meta.URL":                        "url",
	"v1alpha1.Endpoint":               "url",
	"netip.Addr":                      "address",
	"network.Addr":                    "address",
	"netip.Prefix":                    "prefix",
	"network.Prefix":                  "prefix",
	"netip.AddrPort":                  "addressPort",
	"network.AddrPort":                "addressPort",
	"nethelpers.RoutingTable":         "table",
	"network.PortRange":               "ports",
	"v1alpha1.ArgValue":               "argument",
	"v1alpha1.InstallDiskSizeMatcher": "matcher",
	"v1alpha1.FileMode":               "uint32",
}

// keyed names the fields by which lists with a merge of their own find an item, from their method Merge.
var keyed = map[string]string{
	"v1alpha1.NetworkDeviceList":         "interface|deviceSelector",
	"v1alpha1.VlanList":                  "vlanId",
	"v1alpha1.AdmissionPluginConfigList": "name",
	"extensions.ConfigFileList":          "mountPath",
	"security.ImageVerificationRules":    "image",
}

func describe(t reflect.Type) *shape {
	name := t.String()
	if leaf, ok := leaves[name]; ok {
		return &shape{kind: "leaf", leaf: leaf}
	}
	encoded := func(names ...string) *shape {
		out := &shape{kind: "struct"}
		for _, name := range names {
			out.fields = append(out.fields, field{name: name, always: true, shape: &shape{kind: "leaf", leaf: "base64"}})
		}
		return out
	}
	switch name {
	case "v1alpha1.Unstructured":
		return &shape{kind: "any"}
	case "x509.PEMEncodedCertificate":
		return encoded("crt")
	case "x509.PEMEncodedKey":
		return encoded("key")
	case "x509.PEMEncodedCertificateAndKey":
		return encoded("crt", "key")
	}
	switch t.Kind() {
	case reflect.Pointer:
		return describe(t.Elem())
	case reflect.Struct:
		return &shape{kind: "struct", fields: describeFields(t)}
	case reflect.Slice:
		return &shape{kind: "list", keys: keyed[name], item: describe(t.Elem())}
	case reflect.Map:
		return &shape{kind: "map", item: describe(t.Elem())}
	case reflect.Interface:
		return &shape{kind: "any"}
	}
	if values := enumeration(t); values != nil {
		return &shape{kind: "leaf", leaf: "enum(" + strings.Join(values, ",") + ")"}
	}
	return &shape{kind: "leaf", leaf: t.Kind().String()}
}

func describeFields(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag, ok := f.Tag.Lookup("yaml")
		if !ok {
			continue
		}
		parts := strings.Split(tag, ",")
		options := strings.Join(parts[1:], ",")
		if strings.Contains(options, "inline") {
			fields = append(fields, describeFields(f.Type)...)
			continue
		}
		described := describe(f.Type)
		// A rule with the same image replaces the earlier one.
		described.replace = f.Tag.Get("merge") == "replace" || described.keys == "image"
		fields = append(fields, field{
			name:    parts[0],
			always:  !strings.Contains(options, "omitempty"),
			pointer: f.Type.Kind() == reflect.Pointer,
			shape:   described,
		})
	}
	return fields
}

// enumeration returns the words that a type of numbers decodes, or nil for a plain number.
func enumeration(t reflect.Type) []string {
	if _, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); !ok || t.Kind() == reflect.String {
		return nil
	}
	var words []string
	for number := range 1 << 16 {
		value := reflect.New(t)
		switch {
		case value.Elem().CanInt():
			value.Elem().SetInt(int64(number))
		case value.Elem().OverflowUint(uint64(number)):
			continue
		default:
			value.Elem().SetUint(uint64(number))
		}
		text := fmt.Sprint(value.Elem().Interface())
		read := reflect.New(t)
		if err := read.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			continue
		}
		if read.Elem().Interface() == value.Elem().Interface() && text != "" {
			words = append(words, text)
		}
	}
	return words
}

// text writes a shape in the grammar of `schema.txt`.
func (s *shape) text() string {
	replace := ""
	if s.replace {
		replace = "="
	}
	switch s.kind {
	case "any":
		return replace + "*"
	case "map":
		return replace + "<" + s.item.text() + ">"
	case "list":
		keys := ""
		if s.keys != "" {
			keys = s.keys + "@"
		}
		return replace + "[" + keys + s.item.text() + "]"
	case "struct":
		return replace + "{" + text(s.fields) + "}"
	}
	if s.leaf == "string" {
		return ""
	}
	return ":" + s.leaf
}

func text(fields []field) string {
	var out []string
	for _, field := range fields {
		flags := ""
		if field.always {
			flags += "!"
		}
		if field.pointer {
			flags += "^"
		}
		out = append(out, field.name+flags+field.shape.text())
	}
	return strings.Join(out, " ")
}

// value returns a shape as the emulator reads it: an object of fields, `*` for any key, a list, or the name of a leaf.
func (s *shape) value() any {
	switch s.kind {
	case "any":
		return true
	case "map":
		return map[string]any{"*": s.item.value()}
	case "list":
		return []any{s.item.value()}
	case "struct":
		out := map[string]any{}
		for _, field := range s.fields {
			out[field.name] = field.shape.value()
		}
		return out
	}
	return s.leaf
}

// schema prints the shapes of all documents, as text or as JSON.
func schema(asJSON bool) error {
	all := map[string]any{}
	var lines []string
	for _, kind := range kinds {
		text := "apiVersion: v1alpha1\nkind: " + kind + "\n"
		if kind == "v1alpha1" {
			text = "version: v1alpha1\nmachine: {}\n"
		}
		loaded, err := configloader.NewFromBytes([]byte(text))
		if err != nil {
			return err
		}
		described := describe(reflect.TypeOf(loaded.Documents()[0]))
		all[kind] = described.value()
		written := described.text()
		lines = append(lines, kind+": "+written[1:len(written)-1])
	}
	if !asJSON {
		fmt.Println(strings.Join(lines, "\n"))
		return nil
	}
	fmt.Println("{")
	for i, kind := range kinds {
		line, err := json.Marshal(all[kind])
		if err != nil {
			return err
		}
		comma := ","
		if i == len(kinds)-1 {
			comma = ""
		}
		fmt.Printf("  %q: %s%s\n", kind, line, comma)
	}
	fmt.Println("}")
	return nil
}
