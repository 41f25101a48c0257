import Glibc
import Kernel
import State
import Tuners

/// What is done by command, and what compares.
extension Facts {
  /// Turns a tuner on or off, in a namespace or everywhere.
  func turn(_ tuner: String, on: Bool, in text: String?) async throws -> Reply.Switched {
    let running = await running()
    guard let one = running.first(where: { $0.description.name == tuner }) else {
      let names = running.map(\.description.name).joined(separator: ", ")
      throw Problem(.notFound, "no tuner \"\(tuner)\" runs; these do: \(names)")
    }
    var place: NetworkNamespace?
    if let text { place = try await namespace(text) }
    var changed = await supervisor.turn(tuner, on: on, in: place?.id)
    if on, one.trouble != nil, await modules.retry(tuner) { changed += 1 }
    var title: Reply.Namespace?
    if let place { title = await self.title(place) }
    if changed > 0 {
      await around.journal.note(
        "\(on ? "enabled" : "disabled") by command\(place == nil ? ", everywhere" : "")",
        tuner: tuner, in: place?.id ?? around.directory.own, name: title?.name ?? "init")
    }
    return Reply.Switched(tuner: tuner, namespace: title, enabled: on, changed: changed)
  }

  /// Rolls back what is held in one namespace.
  func rollBack(
    _ holdings: [Holding], in id: NamespaceID
  ) async -> (restored: [Reply.Step], left: [Reply.Step]) {
    guard let namespace = await supervisor.known(id) else { return ([], []) }
    let title = await title(namespace)
    _ = await namespace.rollBack(Set(holdings.map(\.tunable.name)))
    var done = (restored: [Reply.Step](), left: [Reply.Step]())
    for holding in holdings {
      let isRestored = await around.journal.holding(holding.tunable, in: id) == nil
      var current = "\(holding.written)"
      if !isRestored, let value = try? await namespace.read(holding.tunable) {
        current = "\(value)"
      }
      let step = Reply.Step(
        tunable: holding.tunable.name, namespace: title, from: current,
        to: "\(holding.original)",
        why: isRestored
          ? "rolled back"
          : current == "\(holding.written)" ? "it could not be written" : "someone else has set it")
      if isRestored { done.restored.append(step) } else { done.left.append(step) }
    }
    return done
  }

  /// Nil when the kernel holds what was written, or the namespace is gone.
  func difference(_ holding: Holding) async -> Reply.Difference? {
    guard let namespace = await supervisor.known(holding.namespace) else { return nil }
    var found: String?
    var problem = "someone else has set it"
    do {
      let value = try await namespace.read(holding.tunable)
      if value == holding.written { return nil }
      found = "\(value)"
    } catch .namespaceGone {
      return nil
    } catch {
      problem = "\(error)"
    }
    return Reply.Difference(
      tunable: holding.tunable.name, namespace: await title(namespace),
      expected: "\(holding.written)", found: found, problem: problem)
  }

  /// The newest advice on each tunable that nothing has overtaken since, for
  /// the host and for namespaces that are there. However much others have, what
  /// is known of the host is in it.
  func standingAdvice() async -> [Record] {
    var filter = HistoryFilter()
    filter.kinds = [.advice, .change, .administrator, .rollback, .withdrawal]
    filter.limit = Limits.rows
    struct Place: Hashable {
      let namespace: NamespaceID
      let tunable: String
    }
    var seen: Set<Place> = []
    var standing: [Record] = []
    for places in [HistoryFilter.Namespaces.own, .all] {
      filter.namespace = places
      for record in await around.journal.history(filter) {
        let isThere =
          if case .own = places { true } else { await isOfThisBoot(record) }
        let namespace = if case .own = places { around.directory.own } else { record.namespace }
        if isThere, seen.insert(Place(namespace: namespace, tunable: record.tunable)).inserted,
          record.kind == .advice
        {
          standing.append(record)
        }
      }
    }
    return standing
  }

  /// Its namespace is there still.
  private func isOfThisBoot(_ record: Record) async -> Bool {
    guard await record.boot == around.journal.boot else { return false }
    return await supervisor.known(record.namespace) != nil
  }
}

enum Host {
  static var name: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
      guard let base = buffer.baseAddress, gethostname(base, buffer.count - 1) == 0 else {
        return ""
      }
      return String(cString: base)
    }
  }
}
