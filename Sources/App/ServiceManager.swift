import Glibc

/// Tells systemd how the service stands (sd_notify(3)), when it asked.
enum ServiceManager {
  /// How often the manager wants to hear that the service is alive, at the
  /// latest (sd_watchdog_enabled(3)); nil when it does not.
  static var watchdogInterval: Duration? {
    guard let text = getenv("WATCHDOG_USEC"), let microseconds = Int64(String(cString: text)),
      microseconds > 0
    else { return nil }
    // Meant for another process, which this one inherited it from.
    if let pid = getenv("WATCHDOG_PID"), Int32(String(cString: pid)) != getpid() { return nil }
    return .microseconds(microseconds)
  }

  /// Sends assignments such as `READY=1`. Without NOTIFY_SOCKET it does
  /// nothing; a manager that does not listen is no reason to fail.
  static func notify(_ assignments: String...) {
    guard let path = getenv("NOTIFY_SOCKET").map({ String(cString: $0) }), !path.isEmpty else {
      return
    }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return }
    withUnsafeMutableBytes(of: &address.sun_path) { target in
      target.copyBytes(from: bytes)
      // A leading @ stands for the abstract namespace.
      if bytes.first == UInt8(ascii: "@") { target[0] = 0 }
    }
    let fd = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard fd >= 0 else { return }
    defer { close(fd) }
    let length = socklen_t(MemoryLayout.offset(of: \sockaddr_un.sun_path)! + bytes.count)
    var message = assignments.joined(separator: "\n")
    message.withUTF8 { text in
      _ = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          sendto(fd, text.baseAddress, text.count, Int32(MSG_NOSIGNAL), $0, length)
        }
      }
    }
  }
}
