package engine

import (
	"cmp"
	"reflect"
	"time"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// PortSpec is a port to be created. With neither Tap nor Link it is one whose
// link another program makes and puts into the bridge, as libvirt's QEMU driver
// does; it is recognised when it comes.
type PortSpec struct {
	// Port is what the port is to have. A zero UUID or MAC is chosen; the owner
	// is the guest.
	netdef.Port
	// Tap asks Viaduct to make the link.
	Tap *TapSpec
	// Link is an existing link to plug in. One that does not exist yet is
	// waited for up to Wait.
	Link string
	Wait time.Duration
	// Name is what the link is to be called from now on; "" leaves it its name.
	Name string
	// MTU in bytes is set on a link that is plugged in; 0 leaves it the network's.
	MTU int
	// Reclaim says that the guest runs already, and is connected as Plug says.
	Reclaim bool
	// Guard says which frames the guest may send; nil for any.
	Guard *netdef.Guard
	// Routed says what is behind the link, in a network whose ports are routed.
	Routed *netdef.Routed
	// Pattern is the port of the same network that this one was made of; zero for
	// none. What changes there changes here.
	Pattern netdef.UUID
	// RateKey is where in another program's store it says what the port is limited
	// to, and Rate what it says, from which the limits were made. With "" for the
	// key there is no such place. See RatedPorts.
	RateKey, Rate string
}

// TapSpec is a tap that stays until its port is deleted or its network is gone.
type TapSpec struct {
	Name string
	// Owner is the uid of the user who may attach a guest.
	Owner uint32
}

// port is a guest's connection to a network, or a link that somebody put into
// the network's bridge without telling.
type port struct {
	// def is what the port has, port group and defaults included. Of a port
	// that nobody declared only the UUID is known.
	def   netdef.Port
	guard *netdef.Guard
	// routed says what is behind the link, in a network whose ports are routed.
	routed *netdef.Routed
	// declared says that somebody asked for the port, so it stays until it is deleted.
	declared bool
	// plugged says that Viaduct was asked to put the link there, so it is put
	// back if it leaves. Other links are somebody else's and may come and go.
	plugged bool
	// made says that Viaduct makes the link: a tap to which that user may attach.
	made  bool
	owner uint32

	// pattern is the port that this one was made of, and follows; zero for none.
	pattern netdef.UUID

	rateKey, rate string // as in PortSpec

	mtu int // wanted of a plugged link; 0 for the network's

	// The link: its name is "" while there is none. The index tells it from a
	// later link of the same name, but for those that Viaduct makes.
	name  string
	index int
	mac   hoststate.MAC
}

// is reports whether the port is that link.
func (p port) is(l host.Link) bool {
	if p.made {
		return l.Alias == plan.PortAlias(p.def.UUID)
	}
	return l.Name == p.name && l.Index == p.index
}

// declaredIs is the same for ports that somebody asked for.
func (p port) declaredIs(l host.Link) bool { return p.declared && p.is(l) }

// tapPrefix is the first octet that libvirt's drivers give to the host's end
// of a guest's tap; the others are the guest's. A macvtap has the guest's own.
const tapPrefix = 0xfe

// awaits reports whether the port has no link of its own yet and that is the
// one that another program made for its guest.
func (p port) awaits(l host.Link) bool {
	guest := hoststate.MAC(p.def.MAC)
	if p.def.Plug.Type != netdef.PlugDirect {
		guest[0] = tapPrefix
	}
	return p.declared && !p.plugged && l.MAC == guest && l.Device == p.def.Plug.Dev
}

// forgetLink leaves the port without a link.
func (p port) forgetLink() port {
	p.name, p.index, p.mac = "", 0, hoststate.MAC{}
	return p
}

func samePorts(a, b []port) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !reflect.DeepEqual(a[i], b[i]) {
			return false
		}
	}
	return true
}

// status is what the store keeps of the port; portsOf reads it.
func (p port) status() store.StatusPort {
	s := store.StatusPort{Name: p.name, Index: p.index, MAC: netdef.MAC(p.mac), Plugged: p.plugged, UUID: p.def.UUID, Guard: p.guard, Routed: p.routed, Pattern: p.pattern, MTU: p.mtu,
		RateKey: p.rateKey, Rate: p.rate}
	if p.declared {
		s.Def = p.def.Format()
	}
	if p.made {
		s.Tap = &store.StatusTap{Owner: p.owner, Guest: p.def.MAC}
	}
	return s
}

// portsOf are the ports that the store kept. A definition that cannot be read
// leaves a port without settings rather than a guest without its network.
func (e *Engine) portsOf(s store.Status) []port {
	var ports []port
	for _, p := range s.Ports {
		known := port{
			guard: p.Guard, routed: p.Routed, pattern: p.Pattern, rateKey: p.RateKey, rate: p.Rate, mtu: p.MTU, declared: p.Def != "" || p.Plugged, plugged: p.Plugged,
			name: p.Name, index: p.Index, mac: hoststate.MAC(p.MAC),
		}
		if p.Tap != nil {
			known.made, known.owner, known.def.MAC = true, p.Tap.Owner, p.Tap.Guest
		}
		if p.Def != "" {
			def, err := netdef.ParsePort([]byte(p.Def))
			if err != nil {
				e.Log.Error("read the definition of a port", "network", s.Name, "port", p.UUID, "error", err)
			} else {
				known.def = *def
			}
		}
		known.def.UUID = p.UUID
		known.complete()
		ports = append(ports, known)
	}
	return ports
}

// complete gives the port the names that it needs to be described. What nobody
// told stands for itself: the link for the guest.
func (p *port) complete() {
	if p.def.UUID.IsZero() {
		p.def.UUID = netdef.NewUUID()
	}
	if !p.declared {
		return
	}
	if p.def.OwnerName == "" {
		p.def.OwnerName = cmp.Or(p.name, p.def.UUID.String())
	}
	if p.def.OwnerUUID.IsZero() {
		p.def.OwnerUUID = p.def.UUID
	}
}
