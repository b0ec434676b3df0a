package identity

import "errors"

// What the judgement of a certificate can answer. Each comes wrapped with the
// value that caused it.
var (
	// ErrBadCertificate says that the certificate is not of the form that
	// agentplane issues.
	ErrBadCertificate = errors.New("certificate is not one of agentplane")
	// ErrWrongCluster says that the certificate, bundle or file belongs to
	// another cluster.
	ErrWrongCluster = errors.New("belongs to another cluster")
	// ErrWrongKind says that this kind of identity has no business here.
	ErrWrongKind = errors.New("kind is not allowed here")
	// ErrWrongNode says that a node in good standing answered, but not the one meant.
	ErrWrongNode = errors.New("is not the node meant")
	// ErrKeyNotRegistered says that the bundle has no such node or another key
	// for it. The bundle may lag behind: fetch a newer one before giving up.
	ErrKeyNotRegistered = errors.New("key is not the registered one")
	// ErrUnknownCA says that no CA of the bundle issued the certificate.
	ErrUnknownCA = errors.New("issuer is not in the trust bundle")
	// ErrExpired says that the clock lies outside the certificate's validity.
	ErrExpired = errors.New("certificate is not valid at this time")
	// ErrNoCertificate says that the other side showed none where one is needed.
	ErrNoCertificate = errors.New("no certificate was shown")
	// ErrOlderBundle says that a bundle is older than the one in use.
	ErrOlderBundle = errors.New("bundle is older than the one in use")
	// ErrBadProof says that whoever sent a bundle does not know the token.
	ErrBadProof = errors.New("bundle is not proved by this token")
)
