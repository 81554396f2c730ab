module stokehold.dev/tools/guest

go 1.26.0
