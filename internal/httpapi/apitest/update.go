package apitest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// Update puts the piece in front of the network's end tag, whatever it is
// asked to do, and refuses what netdef refuses because of the command.
func (f *Fake) Update(_ context.Context, id netdef.UUID, command netdef.UpdateCommand, section netdef.Section, parent int, xml string, live, config bool) error {
	return f.change(id, func(n *network) error {
		if err := n.affected(live, config); err != nil {
			return err
		}
		def := &netdef.Network{Name: n.Name, IPs: []netdef.IP{{Address: netip.MustParseAddr("10.9.1.1"), PrefixLen: 24}}}
		if _, err := def.Update(command, section, parent, []byte(xml)); err != nil {
			return err
		}
		n.xml = strings.Replace(n.xml, "</network>", xml+"</network>", 1)
		return nil
	})
}

func (n *network) affected(live, config bool) error {
	switch {
	case live && !n.Active:
		return netdef.Errorf(netdef.ErrOperationInvalid, "network is not running")
	case config && !n.Persistent:
		return netdef.Errorf(netdef.ErrOperationInvalid, "cannot change persistent config of a transient network")
	}
	return nil
}

// SetMetadata keeps the text, whichever definition it is meant for.
func (f *Fake) SetMetadata(_ context.Context, id netdef.UUID, t netdef.MetadataType, value, key, uri string, live, config bool) error {
	return f.change(id, func(n *network) error {
		if err := n.affected(live, config); err != nil {
			return err
		}
		if _, err := (&netdef.Network{}).WithMetadata(t, value, key, uri); err != nil {
			return err
		}
		if n.texts == nil {
			n.texts = map[string]string{}
		}
		n.texts[fmt.Sprint(t, uri)] = value
		f.publish(engine.Event{Name: n.Name, UUID: n.UUID, Type: engine.EventMetadataChange, Metadata: t, URI: uri})
		return nil
	})
}

// Metadata is the text as it was set.
func (f *Fake) Metadata(id netdef.UUID, t netdef.MetadataType, uri string, live, config bool) (text string, err error) {
	err = f.change(id, func(n *network) error {
		if err := n.affected(live, config); err != nil {
			return err
		}
		if text = n.texts[fmt.Sprint(t, uri)]; text == "" {
			return netdef.Errorf(netdef.ErrNoNetworkMetadata, "Requested metadata element is not present")
		}
		return nil
	})
	return text, err
}
