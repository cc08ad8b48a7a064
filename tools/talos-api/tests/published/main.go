// Compares descriptions of Talos's API with those that the vendors publish, which are compiled into
// this program. Reads an encoded google.protobuf.FileDescriptorSet from standard input, writes the
// number of compared descriptions, and fails with one line for each difference.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	_ "github.com/cosi-project/runtime/api/v1alpha1"
	_ "github.com/siderolabs/talos/pkg/machinery/api/cluster"
	_ "github.com/siderolabs/talos/pkg/machinery/api/common"
	_ "github.com/siderolabs/talos/pkg/machinery/api/machine"
	_ "github.com/siderolabs/talos/pkg/machinery/api/resource/config"
	_ "github.com/siderolabs/talos/pkg/machinery/api/resource/definitions/enums"
	_ "github.com/siderolabs/talos/pkg/machinery/api/resource/definitions/runtime"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// comparison counts the compared descriptions and collects the differences.
type comparison struct {
	messages, fields, values, methods int
	differences                       []string
}

// equal records a difference between the values that both sides have for one property of a description.
func (c *comparison) equal(name protoreflect.FullName, property string, ours, published any) {
	if ours != published {
		c.differences = append(c.differences, fmt.Sprintf("%s: %s is %v, published is %v", name, property, ours, published))
	}
}

// published returns the description with this name, or records that there is none.
func published[D protoreflect.Descriptor](c *comparison, name protoreflect.FullName) (D, bool) {
	found, _ := protoregistry.GlobalFiles.FindDescriptorByName(name)
	description, ok := found.(D)
	if !ok {
		c.differences = append(c.differences, fmt.Sprintf("%s: not published", name))
	}
	return description, ok
}

func (c *comparison) message(ours protoreflect.MessageDescriptor) {
	c.messages++
	if _, ok := published[protoreflect.MessageDescriptor](c, ours.FullName()); !ok {
		return
	}
	for i := range ours.Fields().Len() {
		c.field(ours.Fields().Get(i))
	}
	for i := range ours.Messages().Len() {
		c.message(ours.Messages().Get(i))
	}
	for i := range ours.Enums().Len() {
		c.enum(ours.Enums().Get(i))
	}
}

func (c *comparison) field(ours protoreflect.FieldDescriptor) {
	c.fields++
	theirs, ok := published[protoreflect.FieldDescriptor](c, ours.FullName())
	if !ok {
		return
	}
	c.equal(ours.FullName(), "number", ours.Number(), theirs.Number())
	c.equal(ours.FullName(), "type", typeOf(ours), typeOf(theirs))
	c.equal(ours.FullName(), "cardinality", ours.Cardinality(), theirs.Cardinality())
	c.equal(ours.FullName(), "presence", ours.HasPresence(), theirs.HasPresence())
	c.equal(ours.FullName(), "packing", ours.IsPacked(), theirs.IsPacked())
}

// typeOf returns the type of a field; for a message or an enum, its full name.
func typeOf(field protoreflect.FieldDescriptor) string {
	switch {
	case field.Message() != nil:
		return string(field.Message().FullName())
	case field.Enum() != nil:
		return string(field.Enum().FullName())
	default:
		return field.Kind().String()
	}
}

func (c *comparison) enum(ours protoreflect.EnumDescriptor) {
	theirs, ok := published[protoreflect.EnumDescriptor](c, ours.FullName())
	if !ok {
		return
	}
	for i := range ours.Values().Len() {
		c.values++
		value := ours.Values().Get(i)
		found := theirs.Values().ByName(value.Name())
		if found == nil {
			c.differences = append(c.differences, fmt.Sprintf("%s: not published", value.FullName()))
			continue
		}
		c.equal(value.FullName(), "number", value.Number(), found.Number())
	}
}

func (c *comparison) service(ours protoreflect.ServiceDescriptor) {
	for i := range ours.Methods().Len() {
		c.methods++
		method := ours.Methods().Get(i)
		theirs, ok := published[protoreflect.MethodDescriptor](c, method.FullName())
		if !ok {
			continue
		}
		c.equal(method.FullName(), "request", method.Input().FullName(), theirs.Input().FullName())
		c.equal(method.FullName(), "answer", method.Output().FullName(), theirs.Output().FullName())
		c.equal(method.FullName(), "stream of requests", method.IsStreamingClient(), theirs.IsStreamingClient())
		c.equal(method.FullName(), "stream of answers", method.IsStreamingServer(), theirs.IsStreamingServer())
	}
}

func (c *comparison) file(ours protoreflect.FileDescriptor) {
	for i := range ours.Messages().Len() {
		c.message(ours.Messages().Get(i))
	}
	for i := range ours.Enums().Len() {
		c.enum(ours.Enums().Get(i))
	}
	for i := range ours.Services().Len() {
		c.service(ours.Services().Get(i))
	}
}

func run() error {
	encoded, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(encoded, set); err != nil {
		return err
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return err
	}
	c := &comparison{}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		c.file(file)
		return true
	})
	if len(c.differences) > 0 {
		return fmt.Errorf("%s", strings.Join(c.differences, "\n"))
	}
	fmt.Printf("%d messages, %d fields, %d values, %d methods\n", c.messages, c.fields, c.values, c.methods)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
