package control

import _ "embed"

// schema describes the API for programs (OpenAPI 3.1). A test makes it from the routes, the types and their comments:
// go test ./control -run Schema -update
//
//go:embed openapi.yaml
var schema string
