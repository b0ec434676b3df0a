//go:build !agentplane_points

package execute

// fault is called at named points; tests make it kill the process there.
var fault = func(point string) {}
