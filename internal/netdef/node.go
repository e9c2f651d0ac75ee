package netdef

// Node is an XML element kept as it was read: metadata and whatever else must
// come out as it went in.
type Node struct {
	// XML is the element's text in canonical serialisation, namespace declarations included.
	XML string
	// Space is the element's namespace URI.
	Space string
}
