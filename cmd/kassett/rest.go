package main

import (
	"context"

	"kassett"
	"kassett/storage/rest"
)

// restConnections is how many requests pay side by side, as restic has it.
const restConnections = 5

// openREST opens or creates a repository behind a server of restic's REST
// protocol.
func (a *app) openREST(ctx context.Context, address string, w whether) (kassett.Storage, error) {
	n, err := a.connections("rest", restConnections)
	if err != nil {
		return nil, err
	}
	tr, err := a.transport()
	if err != nil {
		return nil, err
	}
	o := rest.Options{
		Username: a.getenv(envPrefix + "REST_USERNAME"), Password: a.getenv(envPrefix + "REST_PASSWORD"),
		Transport: tr, Connections: n,
	}
	open := rest.Open
	if w == mayCreate {
		open = rest.Create
	}
	st, err := open(ctx, address, o)
	if err != nil {
		tr.CloseIdleConnections()
	}
	return st, err
}
