package netdef

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const portID = "5d744f21-ba4a-4d6e-bdb2-30a35ff3207d"

// port is a port that holds the given elements beside what each port has.
func port(inner string) string {
	return "<networkport><uuid>" + portID + "</uuid><owner><name>g</name><uuid>" + portID + "</uuid></owner>" +
		"<mac address='52:54:00:00:00:01'/>" + inner + "</networkport>"
}

func TestParsePortRefuses(t *testing.T) {
	for _, c := range []refusal{
		{`<port/>`,
			ErrXML, `expecting root element of 'networkport', not 'port'`},
		{`<networkport><owner><name>g</name><uuid>ID</uuid></owner><mac address='52:54:00:00:00:01'/></networkport>`,
			ErrInternal, `network port has no uuid`},
		{`<networkport><uuid>x</uuid><owner><name>g</name><uuid>ID</uuid></owner><mac address='52:54:00:00:00:01'/></networkport>`,
			ErrInternal, `Unable to parse UUID 'x'`},
		{`<networkport><uuid>ID</uuid><mac address='52:54:00:00:00:01'/></networkport>`,
			ErrInternal, `network port has no owner name`},
		{`<networkport><uuid>ID</uuid><owner><name>x</name></owner><mac address='52:54:00:00:00:01'/></networkport>`,
			ErrInternal, `network port has no owner UUID`},
		{`<networkport><uuid>ID</uuid><owner><name>x</name><uuid>y</uuid></owner><mac address='52:54:00:00:00:01'/></networkport>`,
			ErrInternal, `Unable to parse UUID 'y'`},
		{`<networkport><uuid>ID</uuid><owner><name>g</name><uuid>ID</uuid></owner></networkport>`,
			ErrInternal, `network port has no mac`},
		{`<networkport><uuid>ID</uuid><owner><name>g</name><uuid>ID</uuid></owner><mac address='52'/></networkport>`,
			ErrInternal, `Unable to parse MAC '52'`},
		{port(`<bandwidth classID='x'><inbound average='1'/></bandwidth>`),
			ErrInternal, `Unable to parse class id 'x'`},
		{port(`<port isolated='x'/>`),
			ErrXML, `Invalid value for attribute 'isolated' in element 'port': 'x'.`},
		{port(`<rxfilters trustGuest='x'/>`),
			ErrXML, `Invalid value for attribute 'trustGuest' in element 'rxfilters': 'x'.`},
		{port(`<plug type='x'/>`),
			ErrXML, `Invalid value for attribute 'type' in element 'plug': 'x'.`},
		{port(`<plug type='bridge'/>`),
			ErrXML, `Missing network port bridge name`},
		{port(`<plug type='network' bridge='b' macTableManager='x'/>`),
			ErrXML, `Invalid macTableManager setting 'x' in network port`},
		{port(`<plug type='direct'/>`),
			ErrXML, `Missing network port link device name`},
		{port(`<plug type='direct' dev='e' mode='x'/>`),
			ErrXML, `Invalid mode setting 'x' in network port`},
		{port(`<plug type='hostdev-pci' managed='x'/>`),
			ErrXML, `Invalid value for attribute 'managed' in element 'plug': 'x'.`},
		{port(`<plug type='hostdev-pci'/>`),
			ErrXML, `Missing network port PCI address`},
		{port(`<plug type='hostdev-pci'><driver name='x'/><address domain='0' bus='1' slot='0' function='0'/></plug>`),
			ErrXML, `Invalid value for attribute 'name' in element 'driver': 'x'.`},
	} {
		p, err := ParsePort([]byte(strings.ReplaceAll(c.doc, ">ID<", ">"+portID+"<")))
		if p != nil {
			t.Errorf("%s: got a port beside the error", c.doc)
		}
		if e := checkRefusal(t, err, c); !strings.HasPrefix(e.Where, "line 1, <") {
			t.Errorf("%s: place is %q", c.doc, e.Where)
		}
	}
}

func TestPortFormat(t *testing.T) {
	text := `<networkport>
  <uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>
  <owner>
    <name>a &amp; b</name>
    <uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid>
  </owner>
  <group>web1</group>
  <mac address='52:54:00:7b:35:93'/>
  <virtualport type='openvswitch'>
    <parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f' profileid='p'/>
  </virtualport>
  <bandwidth classID='3'>
    <inbound average='1000' peak='4000' floor='2000' burst='1024'/>
  </bandwidth>
  <vlan trunk='yes'>
    <tag id='0'/>
    <tag id='42' nativeMode='untagged'/>
  </vlan>
  <port isolated='yes'/>
  <rxfilters trustGuest='no'/>
PLUG</networkport>
`
	for _, plug := range []string{
		"",
		"  <plug type='network' bridge='virbr0' macTableManager='libvirt'/>\n",
		"  <plug type='direct' dev='eth0' mode='private'/>\n",
		"  <plug type='hostdev-pci' managed='yes'>\n    <driver name='vfio' model='m'/>\n" +
			"    <address domain='0x0001' bus='0x02' slot='0x03' function='0x4'/>\n  </plug>\n",
	} {
		want := strings.Replace(text, "PLUG", plug, 1)
		p, err := ParsePort([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, p.Clone().Format()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}
