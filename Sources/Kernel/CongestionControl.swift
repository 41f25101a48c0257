import Glibc

/// Algorithms of TCP congestion control (net/ipv4/tcp_cong.c).
enum CongestionControl {
  /// Has the kernel load the modules of those that are not there. One that it
  /// does not have is found out when the list is written.
  static func load(_ algorithms: SysctlValue) {
    let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard socket >= 0 else { return }
    defer { close(socket) }
    for name in algorithms.description.split(separator: " ") {
      var name = String(name)
      // A process with CAP_NET_ADMIN that asks for one makes the kernel load it.
      _ = name.withUTF8 {
        setsockopt(socket, Int32(IPPROTO_TCP), TCP_CONGESTION, $0.baseAddress, socklen_t($0.count))
      }
    }
  }
}
