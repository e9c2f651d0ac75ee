package hoststate

import "strings"

// OnBridge is what an object becomes when the bridge that it belongs to gets
// another name; others stay as they are.
func OnBridge(o Object, old, name string) Object {
	switch o := o.(type) {
	case Address:
		if o.Link == old {
			o.Link = name
		}
		return o
	case LinkUp:
		if o.Link == old {
			o.Link = name
		}
		return o
	case Route:
		if o.Link == old {
			o.Link = name
		}
		return o
	case Shaper:
		if o.Link == old {
			o.Link = name
		}
		return o
	case Member:
		if o.Bridge == old {
			o.Bridge = name
		}
		return o
	case Sysctl:
		if o.Link == old {
			o.Link, o.Name = name, strings.Replace(o.Name, "/"+old+"/", "/"+name+"/", 1)
		}
		return o
	}
	return o
}
