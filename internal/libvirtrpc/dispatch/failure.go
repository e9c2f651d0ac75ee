package dispatch

import (
	"errors"
	"strings"
	"syscall"

	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// The parts of libvirt that errors come from (virErrorDomain).
const (
	domainNone   = 0
	domainXML    = 5
	domainRPC    = 7
	domainPolkit = 60
)

// errorLevel is that of all errors here (VIR_ERR_ERROR).
const errorLevel = 2

// domains says which part of libvirt errors of a code come from, if not from
// the driver.
var domains = map[netdef.Code]int32{
	netdef.ErrRPC: domainRPC, netdef.ErrXMLInvalidSchema: domainXML,
	netdef.ErrAuthFailed: domainPolkit, netdef.ErrAuthCancelled: domainPolkit, netdef.ErrAuthUnavailable: domainPolkit,
}

// utilities are errors that libvirt's utilities make, whoever uses them, by how
// they begin. Most of these say that they come from no part of it.
var utilities = []struct {
	begin  string
	domain int32
}{
	{"expecting root element of", domainXML}, {"invalid char in", domainXML},
	{"range ", domainNone}, {"start of range ", domainNone}, {"end of range ", domainNone}, {"Network is already in use by interface ", domainNone},
	{"mismatch of address family in range ", domainNone}, {"bad prefix ", domainNone}, {"Cannot parse socket address ", domainNone},
	{"Invalid value for attribute ", domainXML}, {"Missing required attribute ", domainXML}, {"Invalid PCI address ", domainNone},
	{"Missing mandatory average or floor ", domainNone}, {"could not convert bandwidth ", domainNone}, {"Only one child <", domainNone},
	{"'peak' and 'burst' require ", domainNone}, {"'floor' attribute allowed ", domainNone}, {"floor attribute is not supported ", domainNone},
	{"classID attribute not supported ", domainNone}, {"missing tag id ", domainNone}, {"vlan tag id ", domainNone},
	{"duplicate native vlan setting", domainNone}, {"invalid \"trunk=", domainNone}, {"invalid configuration in <vlan>", domainNone},
	{"unknown virtualport type ", domainNone}, {"missing required virtualport type", domainNone}, {"cannot parse ", domainNone},
	{"value of ", domainNone}, {"value for ", domainNone}, {"profileid parameter too long", domainNone}, {"extra ", domainNone},
}

// noSupport refuses a function of libvirt's API that the driver does not have.
type noSupport struct{ function string }

func (e *noSupport) Error() string { return e.Unwrap().Error() }

func (e *noSupport) Unwrap() error { return netdef.Errorf(netdef.ErrNoSupport, "%s", e.function) }

// functionDomains says which part of libvirt a function of its API belongs to,
// by the first of these words that is in its name. What has none belongs to none.
var functionDomains = []struct {
	word   string
	domain int32
}{
	{"Snapshot", 35}, {"Domain", 20}, {"Network", 19}, {"Storage", 18}, {"NodeDevice", 22}, {"Interface", 26}, {"Secret", 30}, {"NWFilter", 33},
}

func (e *noSupport) domain() int32 {
	for _, f := range functionDomains {
		if strings.Contains(e.function, f.word) {
			return f.domain
		}
	}
	return 0
}

// errNotOpen comes from the dispatcher itself.
var errNotOpen = &fromRPC{netdef.Errorf(netdef.ErrInternal, "connection not open")}

// fromRPC is an error of the protocol's own, whatever its code.
type fromRPC struct{ err *netdef.Error }

func (e *fromRPC) Error() string { return e.err.Error() }

func (e *fromRPC) Unwrap() error { return e.err }

// encodeFailure is virNetMessageError: code, domain, message, level, the guest
// it is about, three texts, two numbers, the network it is about.
func encodeFailure(err error, domain int32) []byte {
	var known *netdef.Error
	if !errors.As(err, &known) {
		known = netdef.Errorf(netdef.ErrInternal, "%w", err)
	}
	if d, ok := domains[known.Code]; ok {
		domain = d
	}
	for _, u := range utilities {
		if strings.HasPrefix(known.Detail, u.begin) {
			domain = u.domain
		}
	}
	var foreign *noSupport
	var protocol *fromRPC
	switch {
	case errors.As(err, &foreign):
		domain = foreign.domain()
	case errors.As(err, &protocol):
		domain = domainRPC
	}
	first, second := int32(-1), int32(-1)
	var errno syscall.Errno
	if known.Code == netdef.ErrSystem && errors.As(known, &errno) {
		first = int32(errno)
	}
	message := known.Error()
	format, detail := known.Code.Prefix()+"%s", &known.Detail
	if known.Detail == "" {
		format, detail = message, nil
	}
	e := &xdr.Encoder{}
	e.Int32(int32(known.Code))
	e.Int32(domain)
	e.OptionalString(&message)
	e.Int32(errorLevel)
	e.Bool(false)
	e.OptionalString(&format)
	e.OptionalString(detail)
	e.OptionalString(nil)
	e.Int32(first)
	e.Int32(second)
	e.Bool(false)
	return e.Data()
}
