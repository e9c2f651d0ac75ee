package dispatch

import "viaduct/internal/libvirtrpc/xdr"

// Param is a named value of one of several types (remote_typed_param).
type Param struct {
	Name string
	Type ParamType
	// Number holds all types but strings: integers as they are, or their bits,
	// and the bits of floating-point numbers.
	Number uint64
	Text   string
}

// ParamType is a type of values (virTypedParameterType).
type ParamType uint32

// The types.
const (
	ParamInt    ParamType = 1
	ParamUint   ParamType = 2
	ParamInt64  ParamType = 3
	ParamUint64 ParamType = 4
	ParamDouble ParamType = 5
	ParamBool   ParamType = 6
	ParamString ParamType = 7
)

var paramTypes = [...]string{"unknown", "int", "uint", "llong", "ullong", "double", "boolean", "string"}

func (t ParamType) String() string {
	if int(t) >= len(paramTypes) {
		t = 0
	}
	return paramTypes[t]
}

// ReadParams reads at most limit parameters.
func ReadParams(d *xdr.Decoder, limit int) []Param { return xdr.List(d, limit, readParam) }

func readParam(d *xdr.Decoder) Param {
	p := Param{Name: d.String(), Type: ParamType(d.Uint32())}
	switch p.Type {
	case ParamInt:
		p.Number = uint64(d.Int32())
	case ParamUint, ParamBool:
		p.Number = uint64(d.Uint32())
	case ParamInt64, ParamUint64, ParamDouble:
		p.Number = d.Uint64()
	case ParamString:
		p.Text = d.String()
	default:
		d.Fail("a parameter of unknown type %d", p.Type)
	}
	return p
}

// WriteParams writes parameters.
func WriteParams(e *xdr.Encoder, params []Param) {
	e.Uint32(uint32(len(params)))
	for _, p := range params {
		e.String(p.Name)
		e.Uint32(uint32(p.Type))
		switch p.Type {
		case ParamInt, ParamUint, ParamBool:
			e.Uint32(uint32(p.Number))
		case ParamInt64, ParamUint64, ParamDouble:
			e.Uint64(p.Number)
		case ParamString:
			e.String(p.Text)
		}
	}
}
