// Package vifspec is the language in which a Xen guest's network interfaces are
// described: a line of vif = [ ... ] in its configuration, as
// xl-network-configuration(5) has it, and the values that libxl makes of one in
// xenstore. It reads strictly, and can tell what xl, which reads loosely, would
// make of the same text (tools/xl/xl_parse.c, tools/libs/light/libxl_nic.c).
package vifspec

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
)

// Vif is one interface of a guest, as its line describes it. What the line does
// not give has its zero value.
type Vif struct {
	MAC        netdef.MAC     `json:"mac,omitzero"`
	Bridge     string         `json:"bridge,omitempty"`
	GatewayDev string         `json:"gatewaydev,omitempty"`
	Type       string         `json:"type,omitempty"` // "vif" or "ioemu"
	Model      string         `json:"model,omitempty"`
	VifName    string         `json:"vifname,omitempty"`
	Script     string         `json:"script,omitempty"`
	IPs        []netip.Prefix `json:"ip,omitempty"`
	Backend    string         `json:"backend,omitempty"`
	Rate       *Rate          `json:"rate,omitempty"`
	DevID      *int           `json:"devid,omitempty"`
	MTU        int            `json:"mtu,omitempty"`
	VLANs      *VLANs         `json:"vlan,omitempty"`
	// Trusted is whether the guest's frontend trusts the backend; nil: not given.
	Trusted *bool `json:"trusted,omitempty"`
}

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Wrong   Severity = "error"   // the line is refused
	Warning Severity = "warning" // it is not what its author is likely to want
	Note    Severity = "note"    // what xl makes of it
)

// Finding is something to be said of a line.
type Finding struct {
	Severity Severity `json:"severity"`
	Key      string   `json:"key,omitempty"`
	Text     string   `json:"text"`
}

// key is one of the settings that a line may have.
type key struct {
	name string
	// means tells an admin what the setting is for.
	means string
	set   func(p *parser, value string)
	// show is the value in words, "" if it is not given; nil where the name says it all.
	show func(v *Vif) string
}

const (
	// maxName is the length of a link's longest name (IFNAMSIZ - 1).
	maxName = 15
	// tapSuffix is what the name of the emulated interface of an HVM guest has more.
	tapSuffix  = "-emu"
	defaultMTU = 1500
)

// models are the emulated network cards of Xen's guides; QEMU knows more.
var models = []string{"rtl8139", "pcnet", "ne2k_pci", "ne2k_isa", "e100", "e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "virtio-net"}

var keys = []key{
	{"mac", "the guest's MAC address; a random one of 00:16:3e with each start if it is not given", (*parser).mac,
		func(v *Vif) string { return given(!v.MAC.IsZero(), v.MAC) }},
	{"bridge", "the network, or the host's bridge, that the guest is plugged into",
		func(p *parser, s string) { p.vif.Bridge = s }, func(v *Vif) string { return v.Bridge }},
	{"gatewaydev", "the host's device whose address routed guests use as their gateway",
		func(p *parser, s string) { p.vif.GatewayDev = s }, func(v *Vif) string { return v.GatewayDev }},
	{"netdev", "the old name of gatewaydev", (*parser).netdev, nil},
	{"type", "vif for a paravirtual interface alone, ioemu for an emulated one beside it", (*parser).kind,
		func(v *Vif) string { return v.Type }},
	{"model", "the network card that is emulated for an HVM guest", (*parser).model,
		func(v *Vif) string { return v.Model }},
	{"vifname", "the name of the host's end of the guest's cable", (*parser).vifname,
		func(v *Vif) string { return v.VifName }},
	{"script", "the hotplug script that sets up the host's end", (*parser).script,
		func(v *Vif) string { return v.Script }},
	{"ip", "the guest's addresses or networks, divided by blanks", (*parser).ip,
		func(v *Vif) string { return given(len(v.IPs) > 0, v.IPs) }},
	{"backend", "the domain that has the host's end",
		func(p *parser, s string) { p.vif.Backend = s }, func(v *Vif) string { return v.Backend }},
	{"rate", "how fast the guest may send, RATE[@INTERVAL]", (*parser).rate, showRate},
	{"devid", "the number of the interface in the guest", (*parser).devid, showDevID},
	{"mtu", "the size of the largest packet, in octets", (*parser).mtu,
		func(v *Vif) string { return given(v.MTU != 0, v.MTU) }},
	{"vlan", "the guest's VLANs on the bridge", (*parser).vlan, showVLANs},
	{"accel", "ignored, by xl too", (*parser).ignored, nil},
	{"trusted", "whether the guest trusts the domain that has the host's end",
		func(p *parser, _ string) { p.trust(true) }, showTrusted},
	{"untrusted", "the opposite of trusted", func(p *parser, _ string) { p.trust(false) }, nil},
}

func given(is bool, value any) string {
	if !is {
		return ""
	}
	return strings.Trim(fmt.Sprint(value), "[]")
}

func showRate(v *Vif) string {
	if v.Rate == nil {
		return ""
	}
	return fmt.Sprintf("%d octets/s", v.Rate.BytesPerSecond())
}

func showDevID(v *Vif) string {
	if v.DevID == nil {
		return ""
	}
	return strconv.Itoa(*v.DevID)
}

func showVLANs(v *Vif) string {
	if v.VLANs == nil {
		return ""
	}
	return fmt.Sprintf("sends in %d; untagged %v, tagged %v", v.VLANs.PVID, v.VLANs.Untagged, v.VLANs.Tagged)
}

func showTrusted(v *Vif) string {
	if v.Trusted == nil {
		return ""
	}
	return map[bool]string{true: "yes", false: "no"}[*v.Trusted]
}

// Setting is one setting of a line in words.
type Setting struct{ Name, Value, Meaning string }

// Settings lists what the line gave.
func (v Vif) Settings() []Setting {
	var list []Setting
	for _, k := range keys {
		if k.show == nil {
			continue
		}
		if value := k.show(&v); value != "" {
			list = append(list, Setting{k.name, value, k.means})
		}
	}
	return list
}

// switches are the keys that take no value.
var switches = []string{"trusted", "untrusted"}

func lookup(name string) *key {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 {
		return nil
	}
	return &keys[i]
}

type parser struct {
	vif      Vif
	key      string
	findings []Finding
}

func (p *parser) say(s Severity, format string, args ...any) {
	p.findings = append(p.findings, Finding{s, p.key, fmt.Sprintf(format, args...)})
}

// Parse reads the line of one interface, what stands between the quotes. The
// line is usable if no finding is Wrong.
func Parse(line string) (Vif, []Finding) {
	p := &parser{}
	seen := map[string]bool{}
	for _, token := range strings.Split(line, ",") {
		token = strings.TrimLeft(token, " ")
		p.key = ""
		if token == "" {
			if line != "" {
				p.say(Note, "there is nothing between two commas")
			}
			continue
		}
		name, value, isSetting := strings.Cut(token, "=")
		k, takesValue := lookup(name), !slices.Contains(switches, name)
		if k == nil || isSetting != takesValue {
			p.unknown(name, token, k != nil)
			continue
		}
		p.key = name
		if seen[name] {
			p.say(Warning, "it is given twice: the last one counts")
		}
		seen[name] = true
		if trimmed := strings.TrimRight(value, " "); trimmed != value {
			p.say(Warning, "xl keeps the blank at its end: '%s'", value)
			value = trimmed
		}
		if takesValue && value == "" {
			p.say(Wrong, "it has no value")
			continue
		}
		k.set(p, value)
	}
	p.key = ""
	p.check()
	return p.vif, p.findings
}

func (p *parser) unknown(name, token string, known bool) {
	switch trimmed := strings.TrimSpace(name); {
	case known:
		p.say(Wrong, "'%s': %s", token, map[bool]string{true: name + " takes no value", false: name + " takes a value: " + name + "=..."}[slices.Contains(switches, name)])
	case lookup(strings.ToLower(trimmed)) != nil:
		p.say(Wrong, "'%s': keys are written in small letters, with no blank before '='", token)
	case strings.HasPrefix(name, "colo_") || name == "forwarddev":
		p.say(Wrong, "'%s': COLO replication is not supported", token)
	default:
		p.say(Wrong, "unknown setting '%s'", token)
	}
	p.say(Note, "xl prints \"unrecognized argument\", and if the line is in a guest's configuration starts the guest all the same, with what it read before")
}

// check looks at the settings together.
func (p *parser) check() {
	v := &p.vif
	if v.MAC.IsZero() && !slices.ContainsFunc(p.findings, func(f Finding) bool { return f.Key == "mac" }) {
		p.say(Note, "no mac: the guest gets another address with each start, and no reservation fits it")
	}
	if v.Model != "" && v.Type == "vif" {
		p.say(Warning, "model has no effect with type=vif")
	}
	if v.Bridge == "" && v.Script == "" {
		p.say(Note, "no bridge: xl takes vif.default.bridge of xl.conf, or else xenbr0, which to Viaduct means its network 'default' where there is no such bridge")
	}
	if v.VLANs != nil && v.Script == "vif-bridge" {
		p.say(Note, "Xen's own vif-bridge ignores vlan; under Viaduct it is applied, or refused where the kernel cannot")
	}
}

func (p *parser) mac(value string) {
	m, err := ParseMAC(value)
	loose, ok := LooseMAC(value)
	switch {
	case err == nil:
		p.vif.MAC = m
		if m[0]&2 == 0 && [3]byte(m[:3]) != prefix {
			p.say(Warning, "%s is neither Xen's (00:16:3e) nor locally administered (second digit 2, 6, a or e): it may be a real device's", m)
		}
		return
	case ok:
		p.say(Wrong, "%v", err)
		p.say(Note, "xl takes it for %s", loose)
	default:
		p.say(Wrong, "%v", err)
		p.say(Note, "xl calls it invalid, but starts a guest whose configuration has it, with %s", loose)
	}
}

func (p *parser) netdev(value string) {
	p.vif.GatewayDev = value
	p.say(Warning, "netdev is deprecated: write gatewaydev=%s", value)
}

func (p *parser) kind(value string) {
	if value != "vif" && value != "ioemu" {
		p.say(Wrong, "'%s' is neither vif nor ioemu", value)
		return
	}
	p.vif.Type = value
	if value == "ioemu" {
		p.say(Note, "only HVM guests can have it")
	}
}

func (p *parser) model(value string) {
	p.vif.Model = value
	if !slices.Contains(models, value) {
		p.say(Warning, "'%s' is none of the known cards (%s)", value, strings.Join(models, ", "))
	}
}

func (p *parser) vifname(value string) {
	if err := CheckName(value, false); err != nil {
		p.say(Wrong, "%v", err)
		return
	}
	p.vif.VifName = value
	if CheckName(value, true) != nil {
		p.say(Warning, "'%s' is too long for an HVM guest with an emulated interface, whose name is %s%s: at most %d characters",
			value, value, tapSuffix, maxName-len(tapSuffix))
	}
}

// CheckName refuses what cannot be the name of a guest's link; emulated says
// that there is a second link, called by the name and "-emu".
func CheckName(name string, emulated bool) error {
	limit := maxName
	if emulated {
		limit -= len(tapSuffix)
	}
	switch {
	case len(name) > limit:
		return fmt.Errorf("'%s' has %d characters, and the kernel allows at most %d in a link's name%s",
			name, len(name), maxName, map[bool]string{true: " (4 of them go to -emu)"}[emulated])
	case name == "" || name == "." || name == ".." ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:%", r) }):
		return fmt.Errorf("'%s' is no name for a link", name)
	}
	return nil
}

func (p *parser) script(value string) {
	p.vif.Script = value
	if strings.Contains(value, " ") {
		p.say(Wrong, "'%s': libxl runs it as one word, so a script gets no arguments this way", value)
	}
}

func (p *parser) ip(value string) {
	for _, text := range strings.Fields(value) {
		a, err := ParseIP(text)
		if err != nil {
			p.say(Wrong, "%v", err)
			continue
		}
		p.vif.IPs = append(p.vif.IPs, a)
	}
}

func (p *parser) rate(value string) {
	r, err := ParseRate(value)
	if err != nil {
		p.say(Wrong, "%v", err)
		return
	}
	p.vif.Rate = &r
	p.say(Note, "it is kept as rate = \"%s\": %d octets in %d us; netback lets an idle guest send %d octets at once, limits only what the guest sends, and each of its queues by itself",
		r, r.Bytes, r.Interval, max(bucket, r.Bytes))
	for _, w := range r.Warnings() {
		p.say(Warning, "%s", w)
	}
	if _, interval, given := strings.Cut(value, "@"); given && strings.Trim(interval, "0123456789") == "" {
		p.say(Warning, "an interval without a unit is seconds to xl, whatever its manual says")
	}
	if value[0] == '0' {
		p.say(Warning, "a number with a leading 0 is octal to xl")
	}
}

// number reads a decimal setting within bounds.
func (p *parser) number(value string, low, high int) (int, bool) {
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		p.say(Wrong, "'%s' is no number from %d to %d", value, low, high)
		return 0, false
	}
	return n, true
}

func (p *parser) devid(value string) {
	if n, ok := p.number(value, 0, 1<<16); ok {
		p.vif.DevID = &n
	}
}

func (p *parser) mtu(value string) {
	n, ok := p.number(value, 68, 65517)
	if !ok {
		return
	}
	p.vif.MTU = n
	if n == defaultMTU {
		p.say(Note, "xl does not pass on an mtu of %d: the guest gets that of its bridge", defaultMTU)
	}
}

func (p *parser) vlan(value string) {
	v, err := ParseVLANs(value)
	if err != nil {
		_, text, _ := strings.Cut(err.Error(), ": ")
		p.say(Wrong, "%s", text)
		return
	}
	p.vif.VLANs = &v
}

func (p *parser) ignored(string) { p.say(Warning, "it is ignored, by xl too") }

func (p *parser) trust(is bool) { p.vif.Trusted = &is }
