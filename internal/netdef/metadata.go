package netdef

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// MetadataType says which of the texts that people attach to a network is
// meant. The numbers are libvirt's (virNetworkMetadataType).
type MetadataType int

// The types.
const (
	MetadataDescription MetadataType = 0
	MetadataTitle       MetadataType = 1
	MetadataElement     MetadataType = 2 // a child of <metadata>, known by its namespace
)

var metadataTypes = [...]string{"description", "title", "element"}

// String is the type's name as virsh prints it.
func (t MetadataType) String() string {
	if t < 0 || int(t) >= len(metadataTypes) {
		return "unknown"
	}
	return metadataTypes[t]
}

// ParseMetadataType reads the name of a type.
func ParseMetadataType(s string) (MetadataType, error) {
	if i := slices.Index(metadataTypes[:], s); i >= 0 {
		return MetadataType(i), nil
	}
	return 0, Errorf(ErrInvalidArg, "unknown metadata type '%s'", s)
}

func unknownMetadata(t MetadataType) error {
	return Errorf(ErrInvalidArg, "unknown metadata type '%d'", int(t))
}

// MetadataOf is one of the network's texts. The element of a namespace comes
// without the namespace, as it was given to WithMetadata. What the network does
// not have is an error with ErrNoNetworkMetadata.
func (n *Network) MetadataOf(t MetadataType, uri string) (string, error) {
	text := ""
	switch t {
	case MetadataDescription:
		text = n.Description
	case MetadataTitle:
		text = n.Title
	case MetadataElement:
		if i := n.metadataIndex(uri); i >= 0 {
			text = n.Metadata[i].without(uri)
		}
	default:
		return "", unknownMetadata(t)
	}
	if text == "" {
		return "", Errorf(ErrNoNetworkMetadata, "Requested metadata element is not present")
	}
	return text, nil
}

func (n *Network) metadataIndex(uri string) int {
	return slices.IndexFunc(n.Metadata, func(m Node) bool { return m.Space == uri })
}

// prefixes are what XML takes for one (NCName), as far as ASCII goes.
var prefixes = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z_\x{80}-\x{10ffff}][\w.\x{80}-\x{10ffff}-]*$`)
})

// WithMetadata is a copy of the network in which one of its texts is another;
// an empty one is removed. An element is XML, whose elements without a
// namespace get the one called uri, under the prefix key.
func (n *Network) WithMetadata(t MetadataType, value, key, uri string) (*Network, error) {
	c := n.Clone()
	switch t {
	case MetadataDescription:
		c.Description = value
		return c, nil
	case MetadataTitle:
		if strings.Contains(value, "\n") {
			return nil, Errorf(ErrInvalidArg, "metadata title can't contain newlines")
		}
		c.Title = value
		return c, nil
	case MetadataElement:
	default:
		return nil, unknownMetadata(t)
	}
	if uri == "" {
		return nil, Errorf(ErrInvalidArg, "uri in virNetworkSetMetadata must not be NULL")
	}
	c.Metadata = slices.DeleteFunc(c.Metadata, func(m Node) bool { return m.Space == uri })
	if value == "" {
		return c, nil
	}
	if key == "" {
		return nil, Errorf(ErrInvalidArg, "key in virNetworkSetMetadata must not be NULL")
	}
	node, err := inNamespace([]byte(value), key, uri)
	if err != nil {
		return nil, err
	}
	c.Metadata = append(c.Metadata, node)
	return c, nil
}

// inNamespace reads an element and puts what is in no namespace into one.
func inNamespace(data []byte, key, uri string) (Node, error) {
	root, err := parseForeign(data, "(metadata_xml)")
	if err != nil {
		return Node{}, err
	}
	if !prefixes().MatchString(key) {
		return Node{}, Errorf(ErrInternal, "failed to validate prefix for a new XML namespace")
	}
	if root.has("xmlns", key) || key == "xml" || key == "xmlns" {
		return Node{}, Errorf(ErrInternal, "failed to create a new XML namespace")
	}
	root.each(func(e *element) {
		if e.space == "" {
			e.prefix, e.space = key, uri
		}
	})
	root.attrs = append(root.attrs, attr{prefix: "xmlns", name: key, value: uri})
	return newNode(root), nil
}

// without is the node's text with its elements of a namespace in none.
func (n Node) without(uri string) string {
	root, err := parseForeign([]byte(n.XML), "(metadata_xml)")
	if err != nil {
		return n.XML // it was read before, so this does not happen
	}
	root.each(func(e *element) {
		if e.space == uri {
			e.prefix, e.space = "", ""
		}
		e.attrs = slices.DeleteFunc(e.attrs, func(a attr) bool { return a.declares() && a.value == uri })
	})
	var s serializer
	s.element(root, 0, true, outerDeclarations(root))
	return s.String()
}

// each calls f for the element and all below it.
func (e *element) each(f func(*element)) {
	f(e)
	for _, c := range e.content {
		if c.child != nil {
			c.child.each(f)
		}
	}
}
