// Package parity protects the files of a repository against damage with parity
// files that stand beside it, in the PAR2 format, so that any PAR2 program can
// repair with them. It knows nothing of what the files hold and needs no key:
// a repository whose config or keys are damaged can be repaired too.
//
// The format is that of "Parity Volume Set Specification 2.0" (Michael Nahas
// and others, 2003); see docs/formats/parity.md for what of it is used.
package parity
