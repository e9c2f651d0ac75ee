// Package httpapi is Viaduct's own door: JSON over HTTP on a Unix socket, with
// a stream of events. It holds both ends, the server in front of the engine and
// the client that the command line uses, so that what one writes the other
// reads. docs/api.md describes it for everybody else.
package httpapi

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// Version is what GET /v1/version answers.
type Version struct {
	// Version is that of the daemon.
	Version string `json:"version"`
	// API counts up when something that clients rely on changes.
	API int `json:"api"`
}

const apiVersion = 1

// Lease is a lease as clients see it.
type Lease struct {
	MAC    netdef.MAC `json:"mac"`
	IP     netip.Addr `json:"ip"`
	Prefix int        `json:"prefix"`
	// Hostname is the name that the guest gave or was given, "" if none.
	Hostname string `json:"hostname,omitempty"`
	// ClientID is the client id or DUID: octets in hex, separated by colons.
	ClientID string `json:"clientId,omitempty"`
	IAID     uint32 `json:"iaid,omitempty"`
	// Expiry is nil for a lease that never ends.
	Expiry *time.Time `json:"expiry"`
}

func leaseOf(l netdef.Lease) Lease {
	w := Lease{MAC: l.MAC, IP: l.Addr, Prefix: l.PrefixLen, Hostname: l.Hostname, ClientID: octets(l.ClientID), IAID: l.IAID}
	if !l.Expiry.IsZero() {
		w.Expiry = &l.Expiry
	}
	return w
}

// Lease is the lease as it was before it travelled.
func (w Lease) Lease() (netdef.Lease, error) {
	id, err := hex.DecodeString(strings.ReplaceAll(w.ClientID, ":", ""))
	l := netdef.Lease{MAC: w.MAC, Addr: w.IP, PrefixLen: w.Prefix, Hostname: w.Hostname, ClientID: id, IAID: w.IAID}
	if w.Expiry != nil {
		l.Expiry = *w.Expiry
	}
	return l, err
}

func octets(b []byte) string {
	parts := make([]string, len(b))
	for i := range b {
		parts[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(parts, ":")
}

// Event is one line of the event stream.
type Event struct {
	Time time.Time `json:"time"`
	// Event is "Defined", "Undefined", "Started", "Stopped" or "MetadataChange".
	Event string      `json:"event"`
	Name  string      `json:"name"`
	UUID  netdef.UUID `json:"uuid"`
	// Metadata is what a MetadataChange is about: "description", "title" or
	// "element", the latter of the namespace URI.
	Metadata string `json:"metadata,omitempty"`
	URI      string `json:"uri,omitempty"`
}

// MetadataChange is the Event of changed metadata.
var MetadataChange = engine.EventMetadataChange.String()

func eventOf(e engine.Event) Event {
	w := Event{Time: e.Time, Event: e.Type.String(), Name: e.Name, UUID: e.UUID}
	if e.Type == engine.EventMetadataChange {
		w.Metadata, w.URI = e.Metadata.String(), e.URI
	}
	return w
}

// Plan is what would change on the host.
type Plan struct {
	// Operations are in the order in which they would be carried out, as text.
	Operations []string `json:"operations"`
}

// list is s as a JSON array even if it is nil.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Error is how an error travels.
type Error struct {
	Code netdef.Code `json:"code"`
	// Message is the whole text, as virsh would print it.
	Message string `json:"message"`
	// Where tells the place in the input, if there is one.
	Where string `json:"where,omitempty"`
}

// ErrorOf is err as it travels.
func ErrorOf(err error) Error {
	e := asNetdef(err)
	return Error{Code: e.Code, Message: e.Error(), Where: e.Where}
}

// netdefError is the error as it was before it travelled.
func (e Error) netdefError() *netdef.Error {
	return &netdef.Error{Code: e.Code, Detail: strings.TrimPrefix(e.Message, e.Code.Prefix()), Where: e.Where}
}
