"""The verbs of the command, a file each: ``declare(parser)`` and ``run(arguments)``; `headwise.cli` lists them."""
