package vifspec

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// OVS is what bridge= means to Xen's vif-openvswitch: NAME[.TAG][:TRUNK...].
type OVS struct {
	Bridge string
	Tag    string
	Trunks []string
}

var ovsForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([^.:]+)(?:\.([0-9]+))?((?::[0-9]+)*)$`) })

// ParseOVS reads bridge= as vif-openvswitch does.
func ParseOVS(text string) (OVS, error) {
	m := ovsForm().FindStringSubmatch(text)
	if m == nil {
		return OVS{}, fmt.Errorf("'%s' is no bridge of Open vSwitch: NAME[.TAG][:TRUNK...]", text)
	}
	o := OVS{Bridge: m[1], Tag: m[2]}
	if m[3] != "" {
		o.Trunks = strings.Split(m[3][1:], ":")
	}
	return o, nil
}
