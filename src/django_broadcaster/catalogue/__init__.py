"""The catalogue: all declared events with their schemas, and where they are sent and received.

- `declared` lists the events: those of classes, and event types that models publish.
- `schemas` makes the JSON Schema of each event.
- `names` makes the names of components and files, and finds those that are the same.
- `payloads` reads from a backend how an event is sent: its headers, its body and its destination.
- `document` makes one AsyncAPI document of events, backends, consumers and handlers.

The others need only a document, and no settings of Django, so that a site's documentation can use
them, too:

- `reading` reads a document from its file.
- `listing` has the same for people: a list of the events.
- `fields` has the fields of an event for that list.
- `schema_types` reads which types a schema allows.
- `changes` compares two such documents, and finds what breaks consumers.

`source_lines` finds the line of a class that made such a change.
"""
