package netdef

import (
	"reflect"
	"testing"
)

func TestParseRate(t *testing.T) {
	for text, want := range map[string]*Rate{
		"": nil, "0": nil, "0,0,0,0": nil, "100": {Average: 100}, "100,200,300": {Average: 100, Peak: 200, Burst: 300},
		"100,,300": {Average: 100, Burst: 300}, "0,0,0,50": {Floor: 50},
	} {
		if got, err := ParseRate(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "-1", "1,2,3,4,5", "4294967296", "0,5", ",,7"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}
