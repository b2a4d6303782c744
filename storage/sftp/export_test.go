package sftp

// New returns a storage that has sent nothing yet.
var New = newStorage
