package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"viaduct/internal/httpapi/apitest"
)

// FuzzRequest sends anything at all. No request may bring the daemon down or
// look like the daemon's own fault.
func FuzzRequest(f *testing.F) {
	const tail = " HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, seed := range []string{
		"GET /v1/version" + tail,
		"GET /v1/networks" + tail,
		"GET /v1/networks/lab/xml?inactive=yes" + tail,
		"GET /v1/networks/00000000-0000-4000-8000-000000000001/leases?mac=52:54:00:00:00:01" + tail,
		"GET /v1/networks/%2e%2e/plan" + tail,
		"PUT /v1/networks/lab/autostart" + tail,
		"POST /v1/networks/lab/start" + tail,
		"DELETE /v1/networks/lab" + tail,
		"POST /v1/reload" + tail,
		"GET /v1/events?network=lab" + tail,
		"OPTIONS *" + tail,
		"CONNECT x:1" + tail,
		"POST /v1/networks?transient=yes HTTP/1.1\r\nHost: x\r\nContent-Length: 39\r\n\r\n<network><name>n</name></network>      ",
		"POST /v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<netw\r\nzz\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		fake := apitest.New()
		if _, err := fake.Define(t.Context(), apitest.Definition("lab", 1)); err != nil {
			t.Fatal(err)
		}
		h := (&Server{API: fake, Log: slog.New(slog.DiscardHandler)}).handler()
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), accessKey{}, access{change: true}))
		cancel() // so that a stream of events ends at once
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(ctx))
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("%q: %d %s", b, w.Code, w.Body)
		}
	})
}
