package hotplug

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

var wholeRequest = Request{
	Call: Call{Face: FaceNAT, Command: "online", Kind: KindVif, Link: "vif5.0", Domain: 5, Device: 1, Emulated: "vif5.1-emu", Netdev: "eth0"},
	Keys: map[string]string{"bridge": "br0", "ip": "10.0.0.1 10.0.0.2", "mac": "00:16:3e:00:00:01"}, Guest: "g=1", GuestUUID: "0-1",
	Unguarded: true, Resolvers: []string{"192.0.2.1", "192.0.2.2"},
}

func TestMessages(t *testing.T) {
	text, err := wholeRequest.Message()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadRequest(bytes.NewReader(text)); err != nil || !reflect.DeepEqual(got, wholeRequest) {
		t.Errorf("read %+v, %v\nof %+v", got, err, wholeRequest)
	}
	said := Answer{MTU: 1400, Warnings: []string{"one", "two"}, Err: errors.New("no room")}
	if text, err = said.Message(); err != nil {
		t.Fatal(err)
	}
	if got := readAnswer(bytes.NewReader(text)); !reflect.DeepEqual(got, said) {
		t.Errorf("read %+v\nof %+v", got, said)
	}
	for want, r := range map[string]Request{
		"octet of zero": {Keys: map[string]string{"bridge": "a\x00guard=no"}},
		"too long":      {Guest: strings.Repeat("g", maxMessage)},
	} {
		if _, err := r.Message(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, text := range map[string]string{
		"unexpected EOF":   "command=online\x00link=vif5.0\x00",
		"no field":         "online\x00\x00",
		"unknown field":    "command=online\x00link=vif5.0\x00key.script=x\x00\x00",
		"invalid syntax":   "command=online\x00link=vif5.0\x00domain=-1\x00\x00",
		"no command or no": "command=start\x00link=vif5.0\x00\x00",
	} {
		if r, err := ReadRequest(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %s", text, r, err, want)
		}
	}
}

func FuzzMessages(f *testing.F) {
	text, _ := wholeRequest.Message()
	f.Add(text)
	text, _ = Answer{MTU: 1400, Warnings: []string{"one"}, Err: errors.New("no room")}.Message()
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		readAnswer(bytes.NewReader(text))
		r, err := ReadRequest(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := r.Message()
		if err != nil {
			t.Fatalf("%+v cannot be said: %v", r, err)
		}
		if got, err := ReadRequest(bytes.NewReader(again)); err != nil || got.Call != r.Call || got.Guest != r.Guest {
			t.Errorf("read %+v, %v\nof %+v", got, err, r)
		}
	})
}
