package faults

// Function is a function of PKCS#11 2.40.
type Function int

// The functions, without their prefix C_. C_GetFunctionList cannot be spoilt.
const (
	Initialize Function = iota
	Finalize
	GetInfo
	GetSlotList
	GetSlotInfo
	GetTokenInfo
	GetMechanismList
	GetMechanismInfo
	InitToken
	InitPIN
	SetPIN
	OpenSession
	CloseSession
	CloseAllSessions
	GetSessionInfo
	GetOperationState
	SetOperationState
	Login
	Logout
	CreateObject
	CopyObject
	DestroyObject
	GetObjectSize
	GetAttributeValue
	SetAttributeValue
	FindObjectsInit
	FindObjects
	FindObjectsFinal
	EncryptInit
	Encrypt
	EncryptUpdate
	EncryptFinal
	DecryptInit
	Decrypt
	DecryptUpdate
	DecryptFinal
	DigestInit
	Digest
	DigestUpdate
	DigestKey
	DigestFinal
	SignInit
	Sign
	SignUpdate
	SignFinal
	SignRecoverInit
	SignRecover
	VerifyInit
	Verify
	VerifyUpdate
	VerifyFinal
	VerifyRecoverInit
	VerifyRecover
	DigestEncryptUpdate
	DecryptDigestUpdate
	SignEncryptUpdate
	DecryptVerifyUpdate
	GenerateKey
	GenerateKeyPair
	WrapKey
	UnwrapKey
	DeriveKey
	SeedRandom
	GenerateRandom
	GetFunctionStatus
	CancelFunction
	WaitForSlotEvent

	functions // their number
)

var names = [functions]string{
	"Initialize", "Finalize", "GetInfo", "GetSlotList", "GetSlotInfo", "GetTokenInfo", "GetMechanismList",
	"GetMechanismInfo", "InitToken", "InitPIN", "SetPIN", "OpenSession", "CloseSession", "CloseAllSessions",
	"GetSessionInfo", "GetOperationState", "SetOperationState", "Login", "Logout", "CreateObject",
	"CopyObject", "DestroyObject", "GetObjectSize", "GetAttributeValue", "SetAttributeValue",
	"FindObjectsInit", "FindObjects", "FindObjectsFinal", "EncryptInit", "Encrypt", "EncryptUpdate",
	"EncryptFinal", "DecryptInit", "Decrypt", "DecryptUpdate", "DecryptFinal", "DigestInit", "Digest",
	"DigestUpdate", "DigestKey", "DigestFinal", "SignInit", "Sign", "SignUpdate", "SignFinal",
	"SignRecoverInit", "SignRecover", "VerifyInit", "Verify", "VerifyUpdate", "VerifyFinal",
	"VerifyRecoverInit", "VerifyRecover", "DigestEncryptUpdate", "DecryptDigestUpdate", "SignEncryptUpdate",
	"DecryptVerifyUpdate", "GenerateKey", "GenerateKeyPair", "WrapKey", "UnwrapKey", "DeriveKey",
	"SeedRandom", "GenerateRandom", "GetFunctionStatus", "CancelFunction", "WaitForSlotEvent",
}

// String returns the function's name, such as C_Sign.
func (f Function) String() string {
	if f < 0 || f >= functions {
		return "C_?"
	}
	return "C_" + names[f]
}
