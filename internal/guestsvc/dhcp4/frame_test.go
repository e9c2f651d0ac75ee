package dhcp4

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func testDatagram(payload []byte) datagram {
	return datagram{
		srcMAC: guest(1), dstMAC: broadcastMAC, payload: payload,
		src: netip.MustParseAddrPort("0.0.0.0:68"), dst: netip.MustParseAddrPort("255.255.255.255:67"),
	}
}

// TestFrameOnTheWire compares with a frame whose checksums were worked out elsewhere.
func TestFrameOnTheWire(t *testing.T) {
	d := datagram{
		srcMAC: bridge, dstMAC: guest(1), payload: []byte("abc"),
		src: netip.MustParseAddrPort("192.168.122.1:67"), dst: netip.MustParseAddrPort("192.168.122.5:68"),
	}
	want, err := hex.DecodeString("525400000001" + "525400ffff01" + "0800" +
		"4500001f00004000" + "4011" + "c576" + "c0a87a01" + "c0a87a05" +
		"00430044000b" + "c596" + "616263")
	if err != nil {
		t.Fatal(err)
	}
	if got := appendFrame(nil, d); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestChecksumsAddUp(t *testing.T) {
	for size := range 400 {
		payload := bytes.Repeat([]byte{0xff, 0x01, 0x80}, size)[:size]
		frame := appendFrame(nil, testDatagram(payload))
		ip := frame[ethernetHeader:]
		if c := checksum(sum(0, ip[:ipHeader])); c != 0 {
			t.Fatalf("%d bytes: IP checksum is off by %#x", size, c)
		}
		udp := ip[ipHeader:]
		if binary.BigEndian.Uint16(udp[6:]) == 0 {
			t.Fatalf("%d bytes: no UDP checksum", size)
		}
		if c := checksum(udpSum([4]byte(ip[12:]), [4]byte(ip[16:]), udp)); c != 0 {
			t.Fatalf("%d bytes: UDP checksum is off by %#x", size, c)
		}
	}
}

// A sum whose complement is zero must not be sent as such: zero means no checksum.
func TestZeroChecksumIsSentAsOnes(t *testing.T) {
	for v := range 0x10000 {
		frame := appendFrame(nil, testDatagram([]byte{byte(v >> 8), byte(v)}))
		if c := binary.BigEndian.Uint16(frame[ethernetHeader+ipHeader+6:]); c == 0 {
			t.Fatalf("payload %#x has checksum 0", v)
		}
	}
}

func TestParseFrame(t *testing.T) {
	good := appendFrame(nil, testDatagram([]byte("hello")))
	change := func(f func([]byte) []byte) []byte { return f(slices.Clone(good)) }
	// fix makes the IP checksum right again.
	fix := func(f []byte) []byte {
		ip := f[ethernetHeader:]
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], checksum(sum(0, ip[:min(int(ip[0]&15)*4, len(ip))])))
		return f
	}
	at := func(offset int, v ...byte) []byte {
		return change(func(f []byte) []byte {
			copy(f[offset:], v)
			return fix(f)
		})
	}
	const ip, udp = ethernetHeader, ethernetHeader + ipHeader
	for _, c := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"good", good, nil},
		{"padded to Ethernet's minimum", append(slices.Clone(good), make([]byte, 20)...), nil},
		{"wrong UDP checksum, which hardware would fill in", at(udp+6, 0xde, 0xad), nil},
		{"empty", nil, errShort},
		{"half", good[:20], errShort},
		{"last byte missing", good[:len(good)-1], errShort},
		{"IPv6", at(12, 0x86, 0xdd), errNotUDP},
		{"IP version 6", at(ip, 0x65), errNotUDP},
		{"TCP", at(ip+9, 6), errNotUDP},
		{"first fragment", at(ip+6, 0x20, 0), errNotUDP},
		{"later fragment", at(ip+6, 0, 1), errNotUDP},
		{"header of 16 bytes", at(ip, 0x44), errShort},
		{"header longer than the packet", at(ip, 0x4f), errShort},
		{"total length too long", at(ip+2, 0xff, 0xff), errShort},
		{"total length without UDP", at(ip+2, 0, 20), errShort},
		{"wrong IP checksum", change(func(f []byte) []byte { f[ip+10] ^= 1; return f }), errChecksum},
		{"client port", at(udp+2, 0, 68), errNotServer},
		{"UDP length too long", at(udp+4, 0, 200), errShort},
		{"UDP length too short", at(udp+4, 0, 7), errShort},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := parseFrame(c.frame)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil && (string(d.payload) != "hello" || d.srcMAC != guest(1) || d.src.Port() != clientPort) {
				t.Errorf("got %+v", d)
			}
		})
	}
	t.Run("IP options", func(t *testing.T) {
		f := slices.Insert(slices.Clone(good), ip+ipHeader, 1, 1, 1, 1)
		f[ip], f[ip+3] = 0x46, f[ip+3]+4
		if d, err := parseFrame(fix(f)); err != nil || string(d.payload) != "hello" {
			t.Errorf("got %+v, %v", d, err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	good := appendFrame(nil, testDatagram([]byte("hello")))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(appendFrame(nil, testDatagram(packet(f, discover, guest(1), named("web")).ToBytes())))
	f.Add(appendFrame(nil, testDatagram(nil)))
	f.Add(arpProbe(bridge, addr("192.168.122.5")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		parseARP(frame)
		d, err := parseFrame(frame)
		if err != nil {
			return
		}
		// Whatever was accepted says the same when it is written.
		again, err := parseFrame(appendFrame(nil, d))
		if err != nil || again.src != d.src || again.dst != d.dst || !bytes.Equal(again.payload, d.payload) {
			t.Errorf("%+v became %+v, %v", d, again, err)
		}
	})
}

func TestARPFrames(t *testing.T) {
	probe := arpProbe(bridge, addr("192.168.122.5"))
	if a, mac, ok := parseARP(probe); !ok || a != netip.IPv4Unspecified() || mac != bridge {
		t.Errorf("a probe is from %v, %v, %v: it must not claim an address", a, mac, ok)
	}
	mac := guest(3)
	reply := slices.Clone(probe)
	copy(reply[ethernetHeader+8:], append(mac[:], 192, 168, 122, 5))
	if a, mac, ok := parseARP(reply); !ok || a != addr("192.168.122.5") || mac != guest(3) {
		t.Errorf("a reply is from %v, %v, %v", a, mac, ok)
	}
	for _, bad := range [][]byte{nil, reply[:len(reply)-1], append(slices.Clone(reply[:12]), make([]byte, 40)...)} {
		if _, _, ok := parseARP(bad); ok {
			t.Errorf("%x passes for ARP", bad)
		}
	}
}
