package netdef

import (
	"slices"
	"strconv"
	"strings"
)

// bandwidth reads a <bandwidth> element: that of a port, which has a class and
// may have a floor, or that of a network.
func (r *reader) bandwidth(e *element, port bool) *Bandwidth {
	if e == nil {
		return nil
	}
	b := &Bandwidth{}
	if text, ok := e.lookup("classID"); ok {
		r.refuse(!port, e, ErrXMLDetail, "classID attribute not supported on <bandwidth> in this usage context")
		id, ok := parseUint(text, 10, 32)
		r.refuse(!ok, e, ErrInternal, "Unable to parse class id '%s'", text)
		b.ClassID = uint(id)
	}
	for _, direction := range []struct {
		name string
		into **Rate
	}{{"inbound", &b.Inbound}, {"outbound", &b.Outbound}} {
		for i, item := range e.all(direction.name) {
			r.refuse(i > 0, item, ErrXMLDetail, "Only one child <%s> element allowed", direction.name)
			*direction.into = r.rate(item)
		}
	}
	r.refuse(b.Inbound != nil && b.Inbound.Floor > 0 && !port, e.child("inbound"), ErrConfigUnsupported,
		"floor attribute is not supported for this config")
	r.refuse(b.Outbound != nil && b.Outbound.Floor > 0, e.child("outbound"), ErrConfigUnsupported,
		"'floor' attribute allowed only in <inbound> element")
	if b.Inbound == nil && b.Outbound == nil {
		return nil
	}
	return b
}

func (r *reader) rate(e *element) *Rate {
	rate := &Rate{}
	_, hasAverage := e.lookup("average")
	_, hasFloor := e.lookup("floor")
	_, hasPeak := e.lookup("peak")
	_, hasBurst := e.lookup("burst")
	r.refuse(!hasAverage && !hasFloor, e, ErrXMLDetail, "Missing mandatory average or floor attributes")
	r.refuse((hasPeak || hasBurst) && !hasAverage, e, ErrConfigUnsupported, "'peak' and 'burst' require 'average' attribute")
	for _, part := range []struct {
		name string
		into *uint64
	}{{"average", &rate.Average}, {"peak", &rate.Peak}, {"burst", &rate.Burst}, {"floor", &rate.Floor}} {
		if text, ok := e.lookup(part.name); ok {
			value, ok := parseUint(text, 10, 64)
			r.refuse(!ok, e, ErrConfigUnsupported, "could not convert bandwidth %s value '%s'", part.name, text)
			*part.into = value
		}
	}
	return rate
}

const maxVLAN = 4095

func (r *reader) vlan(e *element) *VLAN {
	if e == nil {
		return nil
	}
	v := &VLAN{}
	tags := r.list(e, "tag", someElements)
	r.refuse(len(tags) == 0, e, ErrXML, "missing tag id - each <vlan> must have at least one <tag id='n'/> subelement")
	native := false
	for _, tag := range tags {
		id, given := r.uint(tag, "id", 10, 32)
		r.refuse(!given, tag, ErrXML, missingAttribute, "id", "tag")
		r.refuse(id > maxVLAN, tag, ErrXML, "vlan tag id %d too large (maximum %d)", id, maxVLAN)
		mode := r.choice(tag, "nativeMode", "tagged", "untagged")
		r.refuse(mode != "" && native, tag, ErrXML, "duplicate native vlan setting")
		native = native || mode != ""
		v.Tags = append(v.Tags, VLANTag{ID: uint16(id), NativeMode: mode})
	}
	if len(tags) > 1 {
		v.Trunk = Yes
	}
	switch trunk := e.attr("trunk"); {
	case trunk == "":
	case strings.EqualFold(trunk, "yes"):
		v.Trunk = Yes
	default:
		r.refuse(len(tags) > 1, e, ErrXML,
			`invalid "trunk='%s'" in <vlan> - trunk='yes' is required for more than one vlan tag`, trunk)
		r.refuse(native, e, ErrXML, `invalid configuration in <vlan> - "trunk='no'" is not allowed with a native vlan id`)
		r.refuse(!strings.EqualFold(trunk, "no"), e, ErrXML, `invalid "trunk='%s'" in <vlan> - must be yes or no`, trunk)
	}
	return v
}

// virtualPortParameters says which parameters a type of virtual port takes;
// without a type all are open, since a port inherits its type.
var virtualPortParameters = map[string][]string{
	"":            {"managerid", "typeid", "typeidversion", "instanceid", "profileid", "interfaceid"},
	"802.1Qbg":    {"managerid", "typeid", "typeidversion", "instanceid"},
	"802.1Qbh":    {"profileid"},
	"openvswitch": {"profileid", "interfaceid"},
	"midonet":     {"interfaceid"},
}

// maxProfileID is the room for a profile in the kernel's message about it, in bytes.
const maxProfileID = 39

func (r *reader) virtualPort(e *element, needType bool) *VirtualPort {
	if e == nil {
		return nil
	}
	v := &VirtualPort{}
	var given bool
	v.Type, given = e.lookup("type")
	_, known := virtualPortParameters[v.Type]
	r.refuse(!known || given && v.Type == "", e, ErrConfigUnsupported, "unknown virtualport type %s", v.Type)
	r.refuse(needType && v.Type == "", e, ErrXML, "missing required virtualport type")
	p := e.child("parameters")
	v.ManagerID = r.virtualPortNumber(p, "managerid", 0xFF, "value of managerid out of range")
	v.TypeID = r.virtualPortNumber(p, "typeid", 0xFFFFFF, "value for typeid out of range")
	v.TypeIDVersion = r.virtualPortNumber(p, "typeidversion", 0xFF, "value of typeidversion out of range")
	v.InstanceID = r.virtualPortUUID(p, "instanceid")
	v.ProfileID = p.attr("profileid")
	r.refuse(len(v.ProfileID) > maxProfileID, p, ErrXML, "profileid parameter too long")
	v.InterfaceID = r.virtualPortUUID(p, "interfaceid")
	for _, name := range virtualPortParameters[""] {
		_, given := p.lookup(name)
		r.refuse(given && !slices.Contains(virtualPortParameters[v.Type], name), e, ErrXML,
			"extra %s unsupported in <virtualport type='%s'>", name, v.Type)
	}
	return v
}

func (r *reader) virtualPortNumber(e *element, name string, most uint64, tooLarge string) string {
	text, ok := e.lookup(name)
	if !ok {
		return ""
	}
	digits, negative := strings.CutPrefix(text, "-")
	value, ok := parseUint(digits, 0, 32)
	r.refuse(!ok, e, ErrXML, "cannot parse value of %s parameter", name)
	r.refuse(value > most || negative, e, ErrXML, "%s", tooLarge)
	return strconv.FormatUint(value, 10)
}

func (r *reader) virtualPortUUID(e *element, name string) string {
	text, ok := e.lookup(name)
	if !ok {
		return ""
	}
	id, err := ParseUUID(text)
	r.refuse(err != nil, e, ErrXML, "cannot parse %s parameter as a uuid", name)
	return id.String()
}

func (r *reader) portGroup(e *element) PortGroup {
	g := PortGroup{
		Name:                e.attr("name"),
		Default:             strings.EqualFold(e.attr("default"), "yes"),
		TrustGuestRxFilters: r.yesNo(e, "trustGuestRxFilters"),
	}
	r.refuse(g.Name == "", e, ErrXML, "Missing required name attribute in portgroup")
	g.VirtualPort = r.virtualPort(e.child("virtualport"), false)
	g.Bandwidth = r.bandwidth(e.child("bandwidth"), false)
	g.VLAN = r.vlan(e.child("vlan"))
	return g
}
