package identity

import "time"

// Peer is who sits at the other end of a connection, as far as the handshake and
// the bundle tell. The zero value is somebody without a certificate.
//
// For a node the key is the registered one, always. For agents and operators the
// caller compares Key with the registry before it believes ID.
type Peer struct {
	ID       ID
	Key      PublicKey // proved by the handshake
	NotAfter time.Time // end of the certificate

	// Expired says that the clock lies outside the certificate's validity.
	Expired bool
	// CAUnknown says that no CA of the bundle vouches for the certificate, so
	// that everything in it but the key is a mere claim.
	CAUnknown bool
}

// Anonymous says whether the peer showed no certificate. It may enrol and see
// what is open to all.
func (p Peer) Anonymous() bool { return p.ID == ID{} }

// RenewOnly says whether the peer may call nothing but Renew, and that only when
// Key is the registered key of ID.
func (p Peer) RenewOnly() bool { return !p.Anonymous() && (p.Expired || p.CAUnknown) }
