package httpapi

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi/apitest"
	"viaduct/internal/netdef"
)

// The time until a confirmation is a duration as a person writes it.
func TestUplinkConfirm(t *testing.T) {
	socket := serve(t, apitest.New())
	c := client(t, socket)
	report, err := c.CreateUplink(t.Context(), engine.UplinkSpec{Bridge: "br0", NIC: "eth0", Confirm: time.Hour})
	if err != nil || report.Deadline == nil || time.Until(*report.Deadline) < 59*time.Minute {
		t.Errorf("%+v, %v", report, err)
	}
	for body, want := range map[string]string{
		`{"bridge": "br0", "confirm": "60s"}`:       "",
		`{"bridge": "br0", "confirm": 60000000000}`: "read request",
		`{"bridge": "br0", "confirm": "-1s"}`:       "member 'confirm' is a duration",
		`{"bridge": "br0", "confirm": "25h"}`:       "member 'confirm' is a duration",
	} {
		_, err := call[engine.UplinkReport](t.Context(), c, http.MethodPost, "/v1/uplinks", []byte(body))
		var e *netdef.Error
		if want == "" && err != nil || want != "" && (!errors.As(err, &e) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}
