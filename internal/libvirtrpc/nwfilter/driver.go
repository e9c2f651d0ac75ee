// Package nwfilter is the part of libvirt's door that is about packet filters:
// it lets libvirt's clients, and its QEMU driver before it starts a guest with
// a <filterref>, take Viaduct for virtnwfilterd.
package nwfilter

import (
	"context"

	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// Filters is what this door asks of the engine.
type Filters interface {
	Filters() []*netdef.Filter
	Filter(id netdef.UUID) (*netdef.Filter, error)
	FilterByName(name string) (*netdef.Filter, error)
	DefineFilter(xml []byte) (*netdef.Filter, error)
	UndefineFilter(id netdef.UUID) error
	Bindings() []*netdef.FilterBinding
	Binding(link string) (*netdef.FilterBinding, error)
	CreateBinding(ctx context.Context, xml []byte) (*netdef.FilterBinding, error)
	DeleteBinding(ctx context.Context, link string) error
}

// domainNWFilter is the part of libvirt that errors about filters come from
// (VIR_FROM_NWFILTER).
const domainNWFilter = 33

// maxList bounds lists on the wire (REMOTE_NWFILTER_LIST_MAX,
// REMOTE_NWFILTER_BINDING_LIST_MAX).
const maxList = 16384

// flagValidate refuses what libvirt's schema does not know
// (VIR_NWFILTER_DEFINE_VALIDATE, VIR_NWFILTER_BINDING_CREATE_VALIDATE). Here
// what cannot be enforced is refused in any case.
const flagValidate = 1

// Driver answers calls about the filters of an engine.
func Driver(f Filters) dispatch.Driver {
	d := &driver{f}
	return dispatch.Driver{Name: "nwfilter", Domain: domainNWFilter, Procedures: map[uint32]dispatch.Procedure{
		175: {Run: d.lookupByName},
		176: {Run: d.lookupByUUID},
		177: {Run: d.xml},
		178: {Run: d.count},
		179: {Run: d.names},
		180: {Run: d.define(false), Changes: "virNWFilterDefineXML"},
		181: {Run: d.undefine, Changes: "virNWFilterUndefine"},
		286: {Run: d.list},
		397: {Run: d.lookupBinding},
		398: {Run: d.bindingXML},
		399: {Run: d.createBinding, Changes: "virNWFilterBindingCreateXML"},
		400: {Run: d.deleteBinding, Changes: "virNWFilterBindingDelete"},
		401: {Run: d.listBindings},
		431: {Run: d.define(true), Changes: "virNWFilterDefineXMLFlags"},
	}}
}

type driver struct{ Filters }

func writeFilter(out *xdr.Encoder, f *netdef.Filter) {
	out.String(f.Name)
	out.UUID(f.UUID)
}

func writeBinding(out *xdr.Encoder, b *netdef.FilterBinding) {
	out.String(b.Port)
	out.String(b.Ref.Filter)
}

func checkFlags(flags, known uint32, function string) error {
	if flags&^known != 0 {
		return netdef.Errorf(netdef.ErrInvalidArg, "unsupported flags (0x%x) in function %s", flags&^known, function)
	}
	return nil
}

// allowed refuses what the client may not do to a filter.
func allowed(c *dispatch.Call, f *netdef.Filter, permission string) error {
	return c.Allow("nwfilter", permission, map[string]string{
		"connect_driver": "nwfilter", "nwfilter_name": f.Name, "nwfilter_uuid": f.UUID.String(),
	})
}

func bindingAllowed(c *dispatch.Call, b *netdef.FilterBinding, permission string) error {
	return c.Allow("nwfilter-binding", permission, map[string]string{"connect_driver": "nwfilter", "nwfilter_binding_portdev": b.Port})
}

func connectAllowed(c *dispatch.Call, permission string) error {
	return c.Allow("connect", permission, map[string]string{"connect_driver": "nwfilter"})
}

// end reads the flags that a call ends with, none of which is known: if flagged,
// the function that has them, is "", there are none.
func end(c *dispatch.Call, flagged string) error {
	flags := uint32(0)
	if flagged != "" {
		flags = c.In.Uint32()
	}
	if err := c.In.End(); err != nil {
		return err
	}
	return checkFlags(flags, 0, flagged)
}

// one reads a filter (remote_nonnull_nwfilter) and, behind it, flags if there
// are any, and finds the filter. Its UUID is enough.
func (d *driver) one(c *dispatch.Call, permission, flagged string) (*netdef.Filter, error) {
	name, id := c.In.String(), c.In.UUID()
	if err := end(c, flagged); err != nil {
		return nil, err
	}
	f, err := d.Filter(id)
	if err != nil {
		return nil, netdef.Errorf(netdef.ErrNoNWFilter, "no nwfilter with matching uuid '%s' (%s)", netdef.UUID(id), name)
	}
	return f, allowed(c, f, permission)
}

func (d *driver) found(c *dispatch.Call, f *netdef.Filter, err error) error {
	if err == nil {
		err = allowed(c, f, "getattr")
	}
	if err == nil {
		writeFilter(c.Out, f)
	}
	return err
}

func (d *driver) lookupByName(c *dispatch.Call) error {
	name := c.In.String()
	if err := c.In.End(); err != nil {
		return err
	}
	f, err := d.FilterByName(name)
	return d.found(c, f, err)
}

func (d *driver) lookupByUUID(c *dispatch.Call) error {
	id := c.In.UUID()
	if err := c.In.End(); err != nil {
		return err
	}
	f, err := d.Filter(id)
	return d.found(c, f, err)
}

func (d *driver) xml(c *dispatch.Call) error {
	f, err := d.one(c, "read", "nwfilterGetXMLDesc")
	if err == nil {
		c.Out.String(f.Format())
	}
	return err
}

// visible lists the filters that the client may know of.
func (d *driver) visible(c *dispatch.Call) ([]*netdef.Filter, error) {
	if err := connectAllowed(c, "search-nwfilters"); err != nil {
		return nil, err
	}
	var list []*netdef.Filter
	for _, f := range d.Filters.Filters() {
		if allowed(c, f, "getattr") == nil {
			list = append(list, f)
		}
	}
	if len(list) > maxList {
		return nil, netdef.Errorf(netdef.ErrRPC, "Too many nwfilters '%d' for limit '%d'", len(list), maxList)
	}
	return list, nil
}

func (d *driver) count(c *dispatch.Call) error {
	if err := c.In.End(); err != nil {
		return err
	}
	list, err := d.visible(c)
	c.Out.Int32(int32(len(list)))
	return err
}

func (d *driver) names(c *dispatch.Call) error {
	room := c.In.Int32()
	if err := c.In.End(); err != nil {
		return err
	}
	switch {
	case room > maxList:
		return netdef.Errorf(netdef.ErrInternal, "maxnames > REMOTE_NWFILTER_LIST_MAX")
	case room < 0:
		return netdef.Errorf(netdef.ErrInvalidArg, "maxnames in virConnectListNWFilters must be zero or greater")
	}
	list, err := d.visible(c)
	if err != nil {
		return err
	}
	list = list[:min(len(list), int(room))]
	c.Out.Uint32(uint32(len(list)))
	for _, f := range list {
		c.Out.String(f.Name)
	}
	return nil
}

func (d *driver) list(c *dispatch.Call) error {
	needResults, flags := c.In.Int32(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, 0, "nwfilterConnectListAllNWFilters"); err != nil {
		return err
	}
	list, err := d.visible(c)
	if err == nil {
		writeList(c.Out, needResults, list, writeFilter)
	}
	return err
}

// writeList writes a list, if it is wanted, and how long it is.
func writeList[T any](out *xdr.Encoder, needResults int32, list []T, write func(*xdr.Encoder, T)) {
	total := uint32(len(list))
	if needResults == 0 {
		list = nil
	}
	out.Uint32(uint32(len(list)))
	for _, item := range list {
		write(out, item)
	}
	out.Uint32(total)
}

// define makes a procedure that defines a filter. The XML is read after it is
// sure that the client may do this.
func (d *driver) define(flagged bool) func(*dispatch.Call) error {
	return func(c *dispatch.Call) error {
		xml, flags := c.In.String(), uint32(0)
		if flagged {
			flags = c.In.Uint32()
		}
		if err := c.In.End(); err != nil {
			return err
		}
		if err := checkFlags(flags, flagValidate, "nwfilterDefineXMLFlags"); err != nil {
			return err
		}
		if err := allowed(c, &netdef.Filter{}, "write"); err != nil {
			return err
		}
		f, err := d.DefineFilter([]byte(xml))
		if err == nil {
			writeFilter(c.Out, f)
		}
		return err
	}
}

func (d *driver) undefine(c *dispatch.Call) error {
	f, err := d.one(c, "delete", "")
	if err != nil {
		return err
	}
	return d.UndefineFilter(f.UUID)
}

func (d *driver) lookupBinding(c *dispatch.Call) error {
	link := c.In.String()
	if err := c.In.End(); err != nil {
		return err
	}
	b, err := d.Binding(link)
	if err == nil {
		err = bindingAllowed(c, b, "getattr")
	}
	if err == nil {
		writeBinding(c.Out, b)
	}
	return err
}

// oneBinding reads a binding (remote_nonnull_nwfilter_binding) and, behind it,
// flags if there are any.
func (d *driver) oneBinding(c *dispatch.Call, permission, flagged string) (*netdef.FilterBinding, error) {
	link, _ := c.In.String(), c.In.String()
	if err := end(c, flagged); err != nil {
		return nil, err
	}
	b, err := d.Binding(link)
	if err != nil {
		return nil, err
	}
	return b, bindingAllowed(c, b, permission)
}

func (d *driver) bindingXML(c *dispatch.Call) error {
	b, err := d.oneBinding(c, "read", "nwfilterBindingGetXMLDesc")
	if err == nil {
		c.Out.String(b.Format())
	}
	return err
}

func (d *driver) createBinding(c *dispatch.Call) error {
	xml, flags := c.In.String(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagValidate, "nwfilterBindingCreateXML"); err != nil {
		return err
	}
	if err := bindingAllowed(c, &netdef.FilterBinding{}, "create"); err != nil {
		return err
	}
	b, err := d.CreateBinding(c, []byte(xml))
	if err == nil {
		writeBinding(c.Out, b)
	}
	return err
}

func (d *driver) deleteBinding(c *dispatch.Call) error {
	b, err := d.oneBinding(c, "delete", "")
	if err != nil {
		return err
	}
	return d.DeleteBinding(c, b.Port)
}

func (d *driver) listBindings(c *dispatch.Call) error {
	needResults, flags := c.In.Int32(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, 0, "nwfilterConnectListAllNWFilterBindings"); err != nil {
		return err
	}
	if err := connectAllowed(c, "search-nwfilter-bindings"); err != nil {
		return err
	}
	var list []*netdef.FilterBinding
	for _, b := range d.Bindings() {
		if bindingAllowed(c, b, "getattr") == nil {
			list = append(list, b)
		}
	}
	if len(list) > maxList {
		return netdef.Errorf(netdef.ErrRPC, "Too many nwfilter bindings '%d' for limit '%d'", len(list), maxList)
	}
	writeList(c.Out, needResults, list, writeBinding)
	return nil
}
