package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"viaduct/internal/netdef"
)

// affected reads which definitions a request is about.
func (r request) affected() (live, config bool, err error) {
	if live, err = r.yes("live"); err == nil {
		config, err = r.yes("config")
	}
	return live, config, err
}

// update changes one piece of a network.
func update(_ *Server, r request) (any, error) {
	given := r.URL.Query()
	live, config, err := r.affected()
	if err != nil {
		return nil, err
	}
	command, err := netdef.ParseUpdateCommand(given.Get("command"))
	if err != nil {
		return nil, err
	}
	section, err := netdef.ParseSection(given.Get("section"))
	if err != nil {
		return nil, err
	}
	parent := -1
	if text := given.Get("parentIndex"); text != "" {
		if parent, err = strconv.Atoi(text); err != nil {
			return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'parentIndex' is a number, not '%s'", text)
		}
	}
	xml, err := r.body("piece")
	if err != nil {
		return nil, err
	}
	return nil, aboutInput(r.api.Update(r.Context(), r.net.UUID, command, section, parent, string(xml), live, config))
}

// Text is one of the texts that people attach to a network.
type Text struct {
	Value string `json:"value"`
}

func getMetadata(_ *Server, r request) (any, error) {
	live, config, err := r.affected()
	if err != nil {
		return nil, err
	}
	t, err := netdef.ParseMetadataType(r.URL.Query().Get("type"))
	if err != nil {
		return nil, err
	}
	text, err := r.api.Metadata(r.net.UUID, t, r.URL.Query().Get("uri"), live, config)
	return Text{text}, err
}

func setMetadata(_ *Server, r request) (any, error) {
	given := r.URL.Query()
	live, config, err := r.affected()
	if err != nil {
		return nil, err
	}
	t, err := netdef.ParseMetadataType(given.Get("type"))
	if err != nil {
		return nil, err
	}
	value, err := r.body("metadata")
	if err != nil {
		return nil, err
	}
	return nil, aboutInput(r.api.SetMetadata(r.Context(), r.net.UUID, t, string(value), given.Get("key"), given.Get("uri"), live, config))
}

// Affect says which definitions of a network are meant; the zero value is the
// live one of an active network, and else the persistent one.
type Affect struct{ Live, Config bool }

func (a Affect) query() url.Values {
	q := url.Values{}
	if a.Live {
		q.Set("live", "yes")
	}
	if a.Config {
		q.Set("config", "yes")
	}
	return q
}

// Update changes one piece of a network. command and section are virsh's
// words, parent is the index of the <ip> meant, -1 for the one that fits.
func (c *Client) Update(ctx context.Context, ref, command, section string, parent int, xml []byte, a Affect) error {
	q := a.query()
	q.Set("command", command)
	q.Set("section", section)
	q.Set("parentIndex", strconv.Itoa(parent))
	return c.put(ctx, http.MethodPost, network(ref)+"/update?"+q.Encode(), xml)
}

// Metadata is one of the texts that people attach to a network.
func (c *Client) Metadata(ctx context.Context, ref string, t netdef.MetadataType, uri string, a Affect) (string, error) {
	q := a.query()
	q.Set("type", t.String())
	q.Set("uri", uri)
	text, err := get[Text](ctx, c, network(ref)+"/metadata?"+q.Encode())
	return text.Value, err
}

// SetMetadata changes one of the texts that people attach to a network; an
// empty one is removed.
func (c *Client) SetMetadata(ctx context.Context, ref string, t netdef.MetadataType, value, key, uri string, a Affect) error {
	q := a.query()
	q.Set("type", t.String())
	q.Set("key", key)
	q.Set("uri", uri)
	return c.put(ctx, http.MethodPut, network(ref)+"/metadata?"+q.Encode(), []byte(value))
}

// put sends something for which there is no answer but an error.
func (c *Client) put(ctx context.Context, method, path string, content []byte) error {
	body, err := c.send(ctx, method, path, content)
	if err != nil {
		return err
	}
	return body.Close()
}
