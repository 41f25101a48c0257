import Logging
import NIOCore
import NIOHTTP1
import State
import Tuners

/// Answers what clients ask, one call after the other. It runs on the event loop
/// of the control server, so that making JSON takes no time from tuning, and asks
/// `Facts` for a piece at a time, so that tuning comes in between.
actor Desk {
  private let server: ControlServer
  let facts: Facts
  private let log: Logger
  private var telling: Task<Void, Never>?
  nonisolated let unownedExecutor: UnownedSerialExecutor

  init(server: ControlServer, facts: Facts, log: Logger) {
    self.server = server
    self.facts = facts
    self.log = log
    unownedExecutor = server.eventLoop.executor.asUnownedSerialExecutor()
  }

  /// Serves until the server stops.
  func serve() async {
    for await call in server.calls {
      let response = await answer(call)
      let client = call.client.value
      if response.watches {
        server.watch(client)
        if telling == nil {
          telling = Task(executorPreference: facts.around.loop) { await self.tell() }
        }
      }
      client.answer(response)
    }
    telling?.cancel()
    await telling?.value
  }

  /// Tells those who watch of each record; nobody is woken for it when none does.
  private func tell() async {
    for await record in await facts.follow() {
      guard server.hasWatchers else { break }
      server.tellWatchers(Response(json: facts.record(of: record)).body)
    }
    telling = nil
  }

  private func answer(_ call: ControlServer.Call) async -> Response {
    do {
      return try await route(call.request, call.peer)
    } catch let problem as Problem {
      return Response(problem)
    } catch {
      return Response(Problem(.internalServerError, "\(error)"))
    }
  }

  // MARK: Routes

  private static let paths = [
    "GET /v1/status", "GET /v1/tuners", "GET /v1/tunables?netns=&after=",
    "GET /v1/history?since=&before=&tuner=&tunable=&netns=&limit=",
    "GET /v1/explain?tunable=&netns=", "GET /v1/recommend", "GET /v1/simulate", "GET /v1/verify",
    "GET /v1/watch", "GET /metrics", "POST /v1/rollback?tunable=&netns=",
    "POST /v1/tuners/NAME/enable?netns=", "POST /v1/tuners/NAME/disable?netns=",
  ]

  private func route(_ request: Request, _ peer: Peer) async throws -> Response {
    if request.path == ["metrics"] {
      try check(request, .GET, [])
      let figures = await facts.figures()
      let metrics = OpenMetrics(isOpen: request.acceptsOpenMetrics, figures)
      return Response(contentType: metrics.contentType, body: ByteBuffer(string: metrics.text))
    }
    guard peer.isLocal, request.path.first == "v1" || request.path.isEmpty else {
      throw Problem(.notFound, "no such path; there is \(peer.isLocal ? "/v1" : "/metrics")")
    }
    let path = request.path.dropFirst()
    switch (path.first, path.count) {
    case (nil, _):
      try check(request, .GET, [])
      return Response(json: Reply.Index(version: Bpftune.version, paths: Self.paths))
    case ("status", 1):
      try check(request, .GET, [])
      return Response(json: await facts.status())
    case ("tuners", 1):
      try check(request, .GET, [])
      return Response(json: Reply.Tuners(tuners: await facts.tuners()))
    case ("tunables", 1):
      try check(request, .GET, ["netns", "after"])
      return Response(json: try await tunables(request))
    case ("history", 1):
      try check(request, .GET, ["since", "before", "tuner", "tunable", "netns", "limit"])
      return Response(json: try await history(request))
    case ("explain", 1):
      try check(request, .GET, ["tunable", "netns"])
      return Response(json: try await explain(request))
    case ("recommend", 1):
      try check(request, .GET, [])
      return Response(json: await recommend())
    case ("simulate", 1):
      try check(request, .GET, [])
      return Response(json: await simulate())
    case ("verify", 1):
      try check(request, .GET, [])
      return Response(json: await verify())
    case ("watch", 1):
      try check(request, .GET, [])
      guard server.hasRoomForWatcher else {
        throw Problem(.serviceUnavailable, "\(Limits.watchers) clients watch already")
      }
      var response = Response(json: Reply.Index(version: Bpftune.version, paths: []))
      response.watches = true
      return response
    case ("rollback", 1):
      try check(request, .POST, ["tunable", "netns"], by: peer)
      return Response(json: try await rollBack(request, peer))
    case ("tuners", 3) where ["enable", "disable"].contains(path.last):
      try check(request, .POST, ["netns"], by: peer)
      return Response(
        json: try await turn(path[path.startIndex + 1], on: path.last == "enable", request, peer))
    default:
      throw Problem(.notFound, "no such path; /v1 lists them")
    }
  }

  /// GET also stands for HEAD. Who is given wants to change something.
  private func check(
    _ request: Request, _ method: HTTPMethod, _ keys: [String], by peer: Peer? = nil
  ) throws(Problem) {
    let isRight = request.method == method || method == .GET && request.method == .HEAD
    guard isRight else { throw Problem(.methodNotAllowed, "only \(method) is allowed here") }
    if let key = request.unknownKey(besides: keys) {
      throw Problem(
        .badRequest,
        "no argument \"\(key)\" here; there \(keys.isEmpty ? "is none" : "are: \(keys.joined(separator: ", "))")"
      )
    }
    if let peer, peer.rights < .change {
      throw Problem(.forbidden, "only root may change anything")
    }
  }

  // MARK: By command

  private func turn(
    _ tuner: String, on: Bool, _ request: Request, _ peer: Peer
  ) async throws -> Reply.Switched {
    let reply = try await facts.turn(tuner, on: on, in: request["netns"])
    if reply.changed > 0 {
      log.notice(
        "\(tuner) is \(on ? "enabled" : "disabled") \(reply.namespace.map { "in \($0.title)" } ?? "everywhere") by command of pid \(peer.process)"
      )
    }
    return reply
  }

  private func rollBack(_ request: Request, _ peer: Peer) async throws -> Reply.RolledBack {
    let names = (request["tunable"] ?? "").split(separator: ",").map(String.init)
    let place = try await namespace(request)
    let chosen = await facts.holdings().filter { holding in
      (names.isEmpty || names.contains { holding.tunable.isCalled($0) })
        && (place == nil || place?.id == holding.namespace)
    }
    if let unknown = names.first(where: { name in !chosen.contains { $0.tunable.isCalled(name) } })
    {
      throw Problem(.notFound, "bpftune holds no \(unknown)\(place == nil ? "" : " there")")
    }
    guard !chosen.isEmpty else { return Reply.RolledBack(restored: [], left: []) }
    log.notice("rolling back \(chosen.count) tunables by command of pid \(peer.process)")
    var reply = (restored: [Reply.Step](), left: [Reply.Step]())
    for (id, holdings) in Dictionary(grouping: chosen, by: \.namespace) {
      let done = await facts.rollBack(holdings, in: id)
      reply.restored += done.restored
      reply.left += done.left
    }
    return Reply.RolledBack(restored: reply.restored, left: reply.left)
  }

  func namespace(_ request: Request) async throws -> NetworkNamespace? {
    guard let text = request["netns"] else { return nil }
    return try await facts.namespace(text)
  }
}
