import ArgumentParser

/// Where metrics are served: `9273`, `:9273`, `192.0.2.1:9273`, `[2001:db8::1]:9273`.
struct MetricsAddress: ExpressibleByArgument, Equatable, CustomStringConvertible {
  /// Loopback when none is given.
  let host: String
  let port: Int

  init?(argument: String) {
    var host = ""
    var port = argument[...]
    if let colon = argument.lastIndex(of: ":") {
      host = String(argument[..<colon])
      port = argument[argument.index(after: colon)...]
    }
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = String(host.dropFirst().dropLast())
    } else if host.contains(":") {
      // An IPv6 address without brackets: which part is the port?
      return nil
    }
    guard let number = Int(port), (0...65535).contains(number) else { return nil }
    self.host = host.isEmpty ? "127.0.0.1" : host
    self.port = number
  }

  private init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  func with(port: Int) -> MetricsAddress { MetricsAddress(host: host, port: port) }

  var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
  var defaultValueDescription: String { description }
}
