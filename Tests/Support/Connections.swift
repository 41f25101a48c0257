import Foundation

/// TCP connections over loopback that stay open, in the namespace of the
/// calling thread.
public final class Connections {
  private var descriptors: [Int32] = []

  /// Lets this process have as many descriptors as it may.
  private static func raiseLimit() {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    // Root may go above what it was given, which is 4096 on older kernels.
    var more = rlimit(rlim_cur: 1 << 17, rlim_max: max(limit.rlim_max, 1 << 17))
    if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &more) == 0 { return }
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }

  /// Opens so many, with a pause of some microseconds after each, and does not
  /// wait for an answer.
  public init(_ count: Int, port: UInt16, pause: UInt32) throws {
    Self.raiseLimit()
    let flags = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr)
    let length = socklen_t(MemoryLayout<sockaddr_in>.size)
    try withUnsafePointer(to: &address) { pointer in
      try pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
        let listener = socket(AF_INET, flags, 0)
        descriptors.append(listener)
        guard bind(listener, name, length) == 0, listen(listener, 4096) == 0 else {
          throw Command.Failure("cannot listen at port \(port)")
        }
        for _ in 0..<count {
          let client = socket(AF_INET, flags | Int32(SOCK_NONBLOCK.rawValue), 0)
          guard client >= 0 else { throw Command.Failure("no socket") }
          descriptors.append(client)
          _ = connect(client, name, length)
          usleep(pause)
        }
      }
    }
  }

  /// How many are established.
  public var established: Int {
    descriptors.dropFirst().count { fd in
      var info = tcp_info()
      var size = socklen_t(MemoryLayout<tcp_info>.size)
      return getsockopt(fd, Int32(IPPROTO_TCP), TCP_INFO, &info, &size) == 0
        && info.tcpi_state == 1
    }
  }

  deinit { for fd in descriptors { close(fd) } }
}
