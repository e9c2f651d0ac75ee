package netdef

import "testing"

// The input of hooks is what libvirt's documentation shows.
func TestHookData(t *testing.T) {
	n, err := Parse([]byte(`<network><name>n</name><description>one
two</description><ip address='10.0.0.1' prefix='24'/></network>`))
	if err != nil {
		t.Fatal(err)
	}
	p := &Port{OwnerName: "vm", MAC: MAC{0x52, 0x54, 0, 0, 0, 1}}
	want := `<hookData>
  <network>
    <name>n</name>
    <description>one
two</description>
    <bridge stp='on' delay='0'/>
    <ip address='10.0.0.1' prefix='24'>
    </ip>
  </network>
  <networkport>
    <uuid>00000000-0000-0000-0000-000000000000</uuid>
    <owner>
      <name>vm</name>
      <uuid>00000000-0000-0000-0000-000000000000</uuid>
    </owner>
    <mac address='52:54:00:00:00:01'/>
  </networkport>
</hookData>
`
	if got := HookData(n, p); got != want {
		t.Errorf("got:\n%s", got)
	}
}
