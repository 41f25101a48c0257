import Glibc
import SystemPackage

/// A system call that failed: what was attempted, on what, and why.
public struct SystemCallFailure: Error, Sendable, CustomStringConvertible {
  /// What was attempted: a system call or a function of libbpf.
  public let operation: String
  /// What it was attempted on.
  public let subject: String
  public let errno: Errno

  /// Takes the error from `errno` unless it is given.
  public init(_ operation: String, _ subject: String, errno: Errno? = nil) {
    self.errno = errno ?? Errno(rawValue: Glibc.errno)
    self.operation = operation
    self.subject = subject
  }

  public var description: String {
    subject.isEmpty ? "\(operation): \(errno)" : "\(operation) \(subject): \(errno)"
  }
}

/// Turns a negative return into a `SystemCallFailure`.
func descriptor(of operation: String, _ call: () -> Int32) throws(SystemCallFailure)
  -> FileDescriptor
{
  let fd = call()
  guard fd >= 0 else { throw SystemCallFailure(operation, "") }
  return FileDescriptor(rawValue: fd)
}

/// The whole of a small file, or of one in /proc, whose size is not known
/// before it is read.
public func contents(of path: String, limit: Int = 16 << 20) throws(SystemCallFailure) -> [UInt8] {
  let fd = open(path, O_RDONLY | O_CLOEXEC)
  guard fd >= 0 else { throw SystemCallFailure("open", path) }
  defer { close(fd) }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 4096)
  while bytes.count < limit {
    let n = read(fd, &chunk, chunk.count)
    if n < 0 && errno == EINTR { continue }
    guard n >= 0 else { throw SystemCallFailure("read", path) }
    if n == 0 { break }
    bytes += chunk[..<n]
  }
  return bytes
}
