package xenhost

import (
	"strings"
	"unicode"
)

// DefaultScript is the name of the script that xl is told to run for interfaces
// whose line names none.
const DefaultScript = "vif-viaduct"

// scriptKeys are the settings of xl.conf that name the default script; the
// second is their older name (xl.conf(5)).
var scriptKeys = []string{"vif.default.script", "vifscript"}

// Marks around what is ours in xl.conf, and before what it replaces there.
const (
	blockBegin = "# begin: written by viaduct xen-install"
	blockEnd   = "# end: written by viaduct xen-install"
	replaced   = "#viaduct# "
)

// setting is a line of xl.conf.
type setting struct{ key, value string }

// parseSetting reads a line; ok is false if it sets nothing.
func parseSetting(line string) (s setting, ok bool) {
	line, _, _ = strings.Cut(line, "#")
	key, value, ok := strings.Cut(line, "=")
	s = setting{strings.TrimSpace(key), strings.TrimFunc(value, func(r rune) bool { return unicode.IsSpace(r) || r == '"' || r == '\'' })}
	return s, ok && s.key != ""
}

// XLConf is what xl.conf says of interfaces. Empty values are not set.
type XLConf struct {
	Script, Bridge, GatewayDev, Backend string
	// NoScripts says that xl runs no scripts itself (run_hotplug_scripts=0).
	NoScripts bool
}

// ParseXLConf reads the text of an xl.conf (xl.conf(5)).
func ParseXLConf(text string) XLConf {
	var c XLConf
	for line := range strings.Lines(text) {
		s, ok := parseSetting(line)
		if !ok {
			continue
		}
		switch s.key {
		case "vif.default.script", "vifscript":
			c.Script = s.value
		case "vif.default.bridge", "defaultbridge":
			c.Bridge = s.value
		case "vif.default.gatewaydev":
			c.GatewayDev = s.value
		case "vif.default.backend":
			c.Backend = s.value
		case "run_hotplug_scripts":
			c.NoScripts = s.value == "0"
		}
	}
	return c
}

// SetDefaultScript returns the text of an xl.conf that makes our script the
// default. Lines that said otherwise are kept as comments.
func SetDefaultScript(text string) string {
	text = UnsetDefaultScript(text)
	var out strings.Builder
	for line := range strings.Lines(text) {
		if s, ok := parseSetting(line); ok && (s.key == scriptKeys[0] || s.key == scriptKeys[1]) {
			out.WriteString(replaced)
		}
		out.WriteString(line)
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		out.WriteByte('\n')
	}
	out.WriteString(blockBegin + "\n" + scriptKeys[0] + "=\"" + DefaultScript + "\"\n" + blockEnd + "\n")
	return out.String()
}

// UnsetDefaultScript takes back what SetDefaultScript did, and leaves what else
// was changed meanwhile.
func UnsetDefaultScript(text string) string {
	var out strings.Builder
	ours := false
	for line := range strings.Lines(text) {
		switch trimmed := strings.TrimRight(line, "\r\n"); {
		case trimmed == blockBegin:
			ours = true
		case trimmed == blockEnd:
			ours = false
		case !ours:
			out.WriteString(strings.TrimPrefix(line, replaced))
		}
	}
	return out.String()
}
