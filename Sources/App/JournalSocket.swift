import Glibc

/// journald's own socket, which takes entries with fields
/// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
struct JournalSocket: Sendable {
  static let path = "/run/systemd/journal/socket"
  private let fd: Int32

  /// Nil when no journald listens. It is open for as long as the process lives.
  init?() {
    let fd = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard fd >= 0 else { return nil }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Self.path.utf8) }
    let connected = withUnsafePointer(to: &address) { address in
      address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(fd, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard connected == 0 else {
      close(fd)
      return nil
    }
    self.fd = fd
  }

  /// Sends one entry; false when it could not be taken at once.
  func send(_ fields: [(String, String)]) -> Bool {
    let bytes = Self.entry(fields)
    return bytes.withUnsafeBytes {
      Glibc.send(fd, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
    } == bytes.count
  }

  /// `NAME=value` in a line; a value with line feeds goes after its length.
  static func entry(_ fields: [(String, String)]) -> [UInt8] {
    var bytes: [UInt8] = []
    let lineFeed = UInt8(ascii: "\n")
    for (name, value) in fields {
      bytes += name.utf8
      if value.utf8.contains(lineFeed) {
        bytes.append(lineFeed)
        withUnsafeBytes(of: UInt64(value.utf8.count).littleEndian) { bytes += $0 }
      } else {
        bytes.append(UInt8(ascii: "="))
      }
      bytes += value.utf8
      bytes.append(lineFeed)
    }
    return bytes
  }
}
